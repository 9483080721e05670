"""Baselines with what is measured: instructions on the emulator, memory and times on this host."""

import json
from pathlib import Path

import pytest

from edgecompile.cli.main import main
from edgecompile.regression.baseline import read_baseline
from edgecompile.regression.check import check


@pytest.fixture(scope="module")
def baseline(bundle: Path, emulator, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "small.json"
    assert main(["baseline", str(bundle), "--device", "pixel-6", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def slower(bundle: Path, tmp_path_factory) -> Path:
    """The same network with one more convolution, which changes nothing."""
    source = (bundle.parents[1] / "small.py").read_text()
    more = "more = nn.Conv2d(8, 8, 1)\n    more.weight.data = torch.eye(8)[:, :, None, None]"
    source = source.replace("    net = nn", f"    {more}\n    net = nn").replace(
        "nn.ReLU6()", "nn.ReLU6(), more"
    )
    folder = tmp_path_factory.mktemp("slower")
    (folder / "small.py").write_text(source)
    build = ["build", f"{folder}/small.py:make", "--device", "pixel-6"]
    # The same data as the baseline's.
    data = f"{bundle.parents[1]}/small.py:pictures"
    assert main([*build, "--calibration", data, "--output", str(folder / "out")]) == 0
    return folder / "out" / "android-arm64"


def test_baseline_has_what_was_measured(baseline):
    kept = read_baseline(baseline).build
    assert kept.core is not None and kept.core.device == "pixel-6"
    for name in ("pte", "onnx"):
        counts = kept.artifacts[name].instructions
        assert counts is not None and counts.per_inference > 1000 and counts.load > 1000
    assert kept.artifacts["ptl"].instructions is None  # its engine has no arm64 library
    assert all(item.memory_bytes for item in kept.artifacts.values())


def test_unchanged_bundle_passes_beside_itself(bundle, baseline, capsys):
    assert main(["check", str(bundle), "--baseline", str(baseline), "--against", str(bundle), "--all"]) == 0
    shown = capsys.readouterr().out
    assert "\npassed: 16 gates" in shown and "latency" in shown and "load-instructions" in shown


def test_more_instructions(slower, baseline):
    found = check(slower, baseline)
    failed = {(row.gate, row.of) for row in found.failures}
    assert {("instructions", "pte"), ("instructions", "onnx")} <= failed
    rows = [row for row in found.rows if row.gate == "instructions"]
    assert len(rows) == 2 and all(row.now > 1.05 * row.baseline for row in rows)


def test_other_bundle_to_compare_times_with(bundle, slower, baseline, capsys):
    assert main(["check", str(bundle), "--baseline", str(baseline), "--against", str(slower)]) == 2
    assert "error[baseline-mismatch]" in capsys.readouterr().err


def test_no_emulator(bundle, baseline, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["check", str(bundle), "--baseline", str(baseline)]) == 5
    assert "error[tool-missing]" in capsys.readouterr().err


def test_metric_that_is_not_measured_any_more(bundle, baseline, tmp_path, capsys):
    document = json.loads(baseline.read_text())
    document["build"]["artifacts"]["ptl"]["instructions"] = {"load": 1, "per_inference": 1}
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(document))
    assert main(["check", str(bundle), "--baseline", str(path), "--skip", "memory", "--json"]) == 4
    rows = json.loads(capsys.readouterr().out)["rows"]
    missing = {(row["gate"], row["of"]) for row in rows if row["verdict"] == "missing"}
    assert missing == {("instructions", "ptl"), ("load-instructions", "ptl")}


def test_artifact_that_no_emulated_engine_runs(bundle, emulator, tmp_path, capsys):
    source = bundle.parents[1] / "small.py"
    build = ["build", f"{source}:make", "--device", "pixel-6", "--format", "ptl"]
    assert main([*build, "--calibration", f"{source}:pictures", "--output", str(tmp_path)]) == 0
    path = tmp_path / "ptl.json"
    assert main(["baseline", str(tmp_path / "android-arm64"), "-o", str(path), "--no-memory"]) == 0
    assert "no instructions are counted" in capsys.readouterr().out
    assert read_baseline(path).build.core is None
