import sys

import pytest

from edgecompile import catalogue


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_private.py").write_text("raise AssertionError")
    (folder / "fuse_conv.py").write_text('"""Fuses.\n\nMore."""\nclass FuseConv: ...\n')
    (folder / "explosive.py").write_text('"""Never imported."""\nraise AssertionError\n')
    (folder / "not_a_class.py").write_text("NotAClass = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "a_package"
    for name in [name for name in sys.modules if name.startswith("a_package")]:
        del sys.modules[name]


def test_names_are_kebab_case_and_nothing_is_imported(package):
    assert catalogue.names(package) == ("explosive", "fuse-conv", "not-a-class")
    assert catalogue.summary(package, "explosive") == "Never imported."
    assert f"{package}.explosive" not in sys.modules


def test_load_maps_the_name_to_the_class(package):
    loaded = catalogue.load(package, "fuse-conv")
    assert (loaded.__module__, loaded.__name__) == ("a_package.fuse_conv", "FuseConv")


def test_load_refuses_what_is_not_there(package):
    with pytest.raises(LookupError, match="has no 'fuse-convs'; it has explosive, fuse-conv"):
        catalogue.load(package, "fuse-convs")
    with pytest.raises(TypeError, match="not a class"):
        catalogue.load(package, "not-a-class")
    with pytest.raises(LookupError, match="not a package"):
        catalogue.names("json.decoder")


def test_summary_without_a_docstring_is_empty(package):
    assert catalogue.summary(package, "not-a-class") == ""
