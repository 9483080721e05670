"""`edgecompile compare`: what differs is found, and the largest effects come first."""

import json
import shutil
from pathlib import Path

import pytest

from edgecompile.cli.main import main
from edgecompile.regression.baseline import write_baseline
from edgecompile.regression.check import check, make_baseline
from edgecompile.regression.find_differences import find_differences

FORMATS = ("pte", "onnx")


@pytest.fixture(scope="module")
def good(build) -> Path:
    return build(format=FORMATS)


@pytest.fixture(scope="module")
def slow(build) -> Path:
    return build("slow", format=FORMATS)


def test_the_same_bundle(good, tmp_path, capsys):
    copy = shutil.copytree(good, tmp_path / "copy")
    found = find_differences(good, copy)
    assert not found.any and found.equal == FORMATS and not found.notes
    assert main(["compare", str(good), str(copy)]) == 0
    assert "nothing differs" in capsys.readouterr().out


@pytest.fixture(scope="module")
def dark(build) -> Path:
    return build(calibration="dark_calibration", format=FORMATS)


def test_other_ranges(good, dark):
    found = find_differences(good, dark)
    assert found.first_layer == "conv2d" and not found.operators
    effects = [row.effect_db for row in found.layers]
    assert effects == sorted(effects, reverse=True) and effects[0] > 5
    assert {row.of for row in found.outputs} == {"pte output", "onnx output"}
    assert all(0 < row.sqnr_db < 30 and row.max_abs_difference > 0 for row in found.outputs)


def test_one_more_layer(good, slow):
    found = find_differences(good, slow)
    assert [row.name for row in found.layers if row.what == "only in B"] == ["conv2d_4"]
    assert {(row.of, row.name, row.b - row.a) for row in found.operators} == {
        ("pte", "conv2d", 1),
        ("onnx", "QLinearConv", 1),
    }
    changes = [abs(row.b - row.a) for row in found.sizes]
    assert changes == sorted(changes, reverse=True) and ("whole file" in {row.name for row in found.sizes})
    reverse = find_differences(slow, good)
    assert [row.name for row in reverse.layers if row.what == "only in A"] == ["conv2d_4"]


def test_artifacts_alone(good, dark, slow, tmp_path, capsys):
    """Of a bundle the inputs are known; of a bare file they are not, and that is said."""
    assert main(["compare", str(good / "shapes.pte"), str(dark / "shapes.pte"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["outputs"]) == 1 and not document["layers"]
    pairs = enumerate((good, slow))
    bare = [shutil.copy(path / "shapes.pte", tmp_path / f"{index}.pte") for index, path in pairs]
    found = find_differences(*map(Path, bare))
    assert not found.outputs and found.operators and "lies in a bundle" in found.notes[0]
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    assert find_differences(*map(Path, bare)) == found


def test_formats_of_one_alone(good, build):
    found = find_differences(good, build(format=("pte",)))
    assert found.equal == ("pte",) and found.notes == (".onnx is only in A",)


def test_models_of_other_outputs(good, build, tmp_path):
    two = build("two", format=("pte",))
    found = find_differences(two, good)
    assert not found.outputs and ".pte: outputs are not compared: A has 2, B 1" in found.notes
    made, _ = make_baseline(two, core=None, memory=False)
    write_baseline(tmp_path / "two.json", made)
    checked = check(two, tmp_path / "two.json")
    assert checked.passed and len([row for row in checked.rows if row.gate == "sqnr"]) == 3


def test_nothing_in_common(good, capsys):
    assert main(["compare", str(good / "shapes.pte"), str(good / "shapes.onnx")]) == 2
    assert "no format in common" in capsys.readouterr().err


def test_damaged_artifact(good, tmp_path, capsys):
    copy = shutil.copytree(good, tmp_path / "copy")
    data = bytearray((copy / "shapes.pte").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "shapes.pte").write_bytes(data)
    assert main(["compare", str(good), str(copy)]) == 2
    assert "error[altered-file]" in capsys.readouterr().err


def test_no_bundle(good, tmp_path, capsys):
    assert main(["compare", str(good), str(tmp_path)]) == 2
    assert "error[not-a-bundle]" in capsys.readouterr().err
