"""What holds for every platform: it is found by its file's name, and these tests run over the folder."""

import hashlib
from pathlib import Path

import pytest
from synthetic_bundle import PICTURES, tensor, write_bundle

from edgecompile import catalogue, embedding
from edgecompile.artifact import load_bundle
from edgecompile.embedding.platform import load_platform, platform_names
from edgecompile.embedding.subject import read_subject
from edgecompile.errors import (
    FormatNotInBundleError,
    InvalidManifestError,
    NameCollisionError,
    NotEmbeddableError,
    PlatformFormatError,
    UnknownPlatformError,
)

TEMPLATES = Path(embedding.__file__).parent / "templates"
EVERY = [(name, each) for name in platform_names() for each in load_platform(name).formats]


def project(bundle, name, format_name=None):
    platform = load_platform(name)
    return platform.project(read_subject(load_bundle(bundle), platform, name, format_name))


def texts(files):
    """Return the files that are text, by path; all but the artifact, its goldens and labels are."""
    return {path: data.decode() for path, data in files.items() if "assets" not in Path(path).parts}


@pytest.mark.parametrize("name", platform_names())
def test_it_is_one_module_and_one_folder(name):
    assert catalogue.summary("edgecompile.embedding.platforms", name).endswith(".")
    assert any((TEMPLATES / name).rglob("*.j2"))
    assert {path.name for path in TEMPLATES.iterdir()} == set(platform_names())


@pytest.mark.parametrize(("name", "format_name"), EVERY)
@pytest.mark.parametrize("pipeline", [None, PICTURES], ids=["plain", "pictures"])
def test_a_project_holds_what_it_needs(tmp_path, name, format_name, pipeline):
    bundle = write_bundle(tmp_path / "bundle", pipeline=pipeline)
    files = project(bundle, name, format_name)
    assert project(bundle, name, format_name) == files
    artifact = (bundle / f"model.{format_name}").read_bytes()
    assert list(files.values()).count(artifact) == 1
    digest = hashlib.sha256(artifact).hexdigest()
    assert any(digest in text for text in texts(files).values())
    assert "README.md" in files
    assert all(text == "" or text.endswith("\n") for text in texts(files).values())
    goldens = [(bundle / path).read_bytes()[-144 * 4 :] for path in ("goldens/000-input-x.npy",)]
    assert all(data in files.values() for data in goldens)


@pytest.mark.parametrize(("name", "format_name"), EVERY)
def test_no_name_of_a_bundle_reaches_the_code_as_it_is(tmp_path, name, format_name):
    hostile = 'a";\n*/ {{ 7 * 7 }} `touch x` \\'
    bundle = write_bundle(
        tmp_path / "bundle",
        name=hostile,
        inputs=(tensor(hostile.replace("/", ""), 1, 3, 8, 6),),
        outputs=(tensor(f"class {hostile}".replace("/", ""), 1, 4),),
        pipeline=PICTURES,
    )
    for path, text in texts(project(bundle, name, format_name)).items():
        assert "touch x" not in text, path
        assert "7 * 7" not in text, path


@pytest.mark.parametrize("name", platform_names())
def test_what_it_cannot_take(tmp_path, name):
    platform = load_platform(name)
    with pytest.raises(PlatformFormatError, match="'tflite'"):
        project(write_bundle(tmp_path / "a"), name, "tflite")
    others = tuple({"pte", "ptl", "onnx"} - set(platform.formats))
    with pytest.raises(FormatNotInBundleError) as caught:
        project(write_bundle(tmp_path / "b", formats=others), name)
    assert f"--format {platform.formats[0]}" in caught.value.render()
    for kind in ("inputs", "outputs"):
        with pytest.raises(NotEmbeddableError, match=kind[:-1]):
            project(
                write_bundle(tmp_path / f"c-{kind}", **{kind: (tensor("x", 1, 3, dtype="complex64"),)}), name
            )
        with pytest.raises(NameCollisionError, match="a_b"):
            collide = (tensor("a.b", 1, 3), tensor("a-b", 1, 3))
            project(write_bundle(tmp_path / f"d-{kind}", **{kind: collide}), name)
    if not platform.dynamic_sizes:
        with pytest.raises(NotEmbeddableError, match="'x'"):
            project(write_bundle(tmp_path / "e", inputs=(tensor("x", None, None),)), name)


@pytest.mark.parametrize("name", platform_names())
def test_a_manifest_from_anywhere(tmp_path, name):
    with pytest.raises(InvalidManifestError, match="no version"):
        project(write_bundle(tmp_path / "a", engine_version='1.0"; import os'), name)
    with pytest.raises(NotEmbeddableError, match="'x'"):
        project(write_bundle(tmp_path / "b", outputs=(tensor("x", 1, 0),)), name)


def test_an_unknown_platform():
    with pytest.raises(UnknownPlatformError, match="'pyhton'") as caught:
        load_platform("pyhton")
    assert "did you mean 'python'?" in caught.value.render()
