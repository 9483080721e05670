"""`edgecompile embed`: what it writes, what it leaves alone, and what it refuses."""

import json
import sys

import pytest
from synthetic_bundle import PICTURES, write_bundle

MARK = ".edgecompile-embed.json"


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", pipeline=PICTURES)


@pytest.fixture
def embed(cli, bundle, tmp_path):
    def run(*more):
        return cli("embed", bundle, "--platform", "python", "-o", tmp_path / "app", *more)

    return run


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_into_a_new_or_an_empty_folder(embed, tmp_path):
    assert embed().status == 0
    first = contents(tmp_path / "app")
    assert json.loads(first[MARK])["files"].keys() | {MARK} == first.keys()
    (tmp_path / "empty").mkdir()
    finished = embed("-o", tmp_path / "empty", "--json")
    assert contents(tmp_path / "empty") == first
    assert set(json.loads(finished.out)["files"]) | {MARK} == first.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app", "bundle", "empty"]


def test_a_folder_that_is_not_empty_is_refused(embed, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/notes.txt").write_text("mine")
    finished = embed()
    assert finished.status == 2
    assert "error[folder-not-empty]" in finished.err
    assert contents(tmp_path / "app") == {"notes.txt": b"mine"}


def test_force_replaces_only_what_embed_wrote(embed, cli, tmp_path):
    embed("--format", "pte")
    own = tmp_path / "app/net/own.py"
    own.write_text("mine")
    (tmp_path / "app/link").symlink_to("README.md")
    assert embed("--force").status == 0
    assert own.read_text() == "mine"
    assert (tmp_path / "app/link").is_symlink()
    assert (tmp_path / "app/net/assets/net.onnx").is_file()
    assert not (tmp_path / "app/net/assets/net.pte").exists()


@pytest.mark.parametrize("written", [True, False])
def test_force_keeps_an_edited_file(embed, tmp_path, written):
    if written:
        embed()
    (tmp_path / "app").mkdir(exist_ok=True)
    (tmp_path / "app/README.md").write_text("mine")
    before = contents(tmp_path / "app")
    finished = embed("--force")
    assert finished.status == 2
    assert "error[folder-not-empty]" in finished.err
    assert ("edited since it was written" in finished.err) == written
    assert contents(tmp_path / "app") == before


@pytest.mark.parametrize(
    "mark",
    [
        "{",
        "[]",
        '{"schema_version": 2}',
        '{"schema_version": 1, "edgecompile_version": "", "platform": "", "files": {"../x": ""}}',
    ],
)
def test_a_damaged_mark(embed, tmp_path, mark):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / MARK).write_text(mark)
    finished = embed("--force")
    assert finished.status == 2
    assert "error[folder-not-empty]" in finished.err


def test_a_file_in_the_place_of_the_folder(embed, tmp_path):
    (tmp_path / "app").write_text("mine")
    finished = embed("--force")
    assert finished.status == 2
    assert "error[output-not-writable]" in finished.err


def test_an_altered_artifact_is_not_embedded(embed, bundle, tmp_path):
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[5] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    finished = embed()
    assert finished.status == 2
    assert "error[altered-file]" in finished.err
    assert not (tmp_path / "app").exists()


def test_mistakes_on_the_command_line(cli, bundle, tmp_path):
    for arguments, code in (
        ((tmp_path, "--platform", "python", "-o", tmp_path / "x"), "not-a-bundle"),
        ((bundle, "--platform", "pyton", "-o", tmp_path / "x"), "unknown-platform"),
        ((bundle, "--platform", "python", "-o", tmp_path / "x", "--format", "ptl"), "platform-format"),
        ((bundle, "-o", tmp_path / "x"), "usage"),
    ):
        finished = cli("embed", *arguments)
        assert finished.status == 2
        assert f"error[{code}]" in finished.err


def test_without_the_template_engine(embed, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    finished = embed()
    assert finished.status == 5
    assert "pip install 'edgecompile[embed]'" in finished.err
