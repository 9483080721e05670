import sys

import pytest

from edgecompile.errors import InvalidModelSpecError, ModelFunctionFailedError, ModelNotFoundError
from edgecompile.user_code import check_spec, load_function, split_spec, user_location


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write_file(text, name="net.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


@pytest.mark.parametrize(
    ("spec", "halves"),
    [
        ("a/b c/net.py:make", ("a/b c/net.py", "make")),
        ("nets.small:make", ("nets.small", "make")),
        ("a:b/net.py:make", ("a:b/net.py", "make")),
    ],
)
def test_split(spec, halves):
    assert split_spec(spec) == halves


@pytest.mark.parametrize("spec", ["", "net", ":make", "net.py:", "net.py:a b", "net.txt/x:make", "net.onnx"])
def test_what_names_no_function(spec):
    with pytest.raises(InvalidModelSpecError, match="names no function"):
        split_spec(spec)


def test_a_file_without_function_lists_its_functions_without_running(write):
    path = write("raise AssertionError\ndef _no(): ...\ndef make(): ...\ndef other(): ...\n")
    with pytest.raises(InvalidModelSpecError) as caught:
        split_spec(path)
    assert caught.value.lines["known"] == "make, other"
    assert caught.value.lines["hint"] == f"did you mean '{path}:make'?"


def test_loads_a_file_once_and_finds_its_neighbours(write):
    write("VALUE = 3\n", "a_neighbour_of_net.py")
    path = write("from a_neighbour_of_net import VALUE\ndef make(): return VALUE\n")
    assert load_function(f"{path}:make")() == 3
    assert load_function(f"{path}:make") is load_function(f"{path}:make")


def test_a_file_does_not_shadow_a_library(write):
    path = write("def make(): return 1\n", "json.py")
    import json

    assert load_function(f"{path}:make")() == 1
    assert sys.modules["json"] is json


def test_module_of_the_current_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("def make(): return 2\n", "module_of_this_test.py")
    assert load_function("module_of_this_test:make")() == 2
    with pytest.raises(ModelNotFoundError, match="no module 'no_such_module_here'"):
        load_function("no_such_module_here.inner:make")


def test_what_is_missing_says_what_was_meant(write, tmp_path):
    path = write("def make_net(): ...\nLIMIT = 3\n")
    with pytest.raises(ModelNotFoundError) as caught:
        load_function(f"{path}:make_nte")
    assert caught.value.lines["known"] == "make_net"
    assert caught.value.lines["hint"] == f"did you mean '{path}:make_net'?"
    with pytest.raises(ModelNotFoundError):
        load_function(f"{path}:LIMIT")
    for check in (check_spec, load_function):
        with pytest.raises(ModelNotFoundError) as caught:
            check(f"{tmp_path}/nett.py:make")
        assert caught.value.lines["hint"] == f"did you mean '{path}'?"


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("x = 1\nint('a')\n", 2, "ValueError: invalid literal"),
        ("def f(:\n", 1, "SyntaxError"),
        ("\nimport no_such_module_here\n", 2, "ModuleNotFoundError"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
    ],
)
def test_importing_raises(write, text, line, found):
    path = write(text)
    with pytest.raises(ModelFunctionFailedError) as caught:
        load_function(f"{path}:make")
    assert caught.value.lines["where"] == f"{path}:{line}"
    assert found in caught.value.lines["found"]


def test_a_module_that_imports_what_is_missing_is_the_users_failure(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("import no_such_module_here\n", "another_of_this_test.py")
    with pytest.raises(ModelFunctionFailedError, match="importing 'another_of_this_test' raised"):
        load_function("another_of_this_test:make")


def test_user_location_is_the_users_line_and_not_the_librarys(write):
    path = write("def make():\n    import json\n    return json.loads('{')\n")
    with pytest.raises(ValueError) as caught:
        load_function(f"{path}:make")()
    assert user_location(caught.value) == f"{path}:3"
    assert user_location(ValueError()) is None
