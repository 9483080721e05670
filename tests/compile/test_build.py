"""`edgecompile build` as a user runs it: every target, every format, and what the bundle says."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import torch

from edgecompile import __version__
from edgecompile.artifact import load_bundle
from edgecompile.compile import build as build_bundles
from edgecompile.engine import load_engine
from edgecompile.errors import CalibrationRequiredError, OutputNotWritableError
from edgecompile.passes.fold_constants import FoldConstants
from edgecompile.settings import BuildSettings
from edgecompile.target import load_target, target_names

GOLDEN_KINDS = ("input-picture", "float-output", "reference-output")
NETWORKS = networks.__file__
PROGRESS = re.compile(r"[\w .-]+ … \d+\.\d s(  .*)?")


@pytest.fixture(scope="module")
def all_targets(tmp_path_factory):
    """All targets in one command, in a process of its own: its output folder and its JSON document."""
    folder = tmp_path_factory.mktemp("all")
    targets = [part for name in target_names() for part in ("--target", name)]
    command = [sys.executable, "-m", "edgecompile.cli.main", "build", f"{NETWORKS}:small", *targets]
    finished = subprocess.run(
        [*command, "--calibration", f"{NETWORKS}:pictures", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return folder / "build", json.loads(finished.stdout), finished.stderr


@pytest.fixture(scope="module")
def small(build):
    """The same network for android-arm64 alone, in this process."""
    return build("small")


def test_every_target_builds_every_format(all_targets):
    folder, document, _ = all_targets
    assert sorted(path.name for path in folder.iterdir()) == list(target_names())
    assert [report["target"] for report in document["bundles"]] == list(target_names())
    missed = [row["missed"] for report in document["bundles"] for row in report["quality"]]
    assert len(missed) == 5 * len(target_names()) and not any(missed)
    goldens = {f"goldens/{index:03d}-{kind}.npy" for index in range(8) for kind in GOLDEN_KINDS}
    for name in target_names():
        artifacts = {f"networks.{format_name}" for format_name in load_target(name).formats}
        rest = {"manifest.json", "program.json", "program.npz", "report.txt", "report.json"}
        found = {
            path.relative_to(folder / name).as_posix()
            for path in (folder / name).rglob("*")
            if path.is_file()
        }
        assert found == artifacts | rest | goldens


def test_stderr_holds_progress_and_one_note(all_targets):
    """The note tells of what all targets have in common: few calibration samples."""
    rest = [line for line in all_targets[2].splitlines() if not PROGRESS.fullmatch(line)]
    assert len(rest) == 1 and re.match(r"note: .* 12 calibration samples may be too few", rest[0]), rest


def test_artifacts_are_the_same_in_every_process_and_beside_other_targets(all_targets, small):
    for artifact in load_bundle(small).artifacts:
        other = all_targets[0] / "android-arm64" / artifact.path
        assert other.read_bytes() == (small / artifact.path).read_bytes(), artifact.path


def test_manifest(small):
    bundle = load_bundle(small)
    manifest = bundle.manifest
    bundle.verify()
    assert (manifest.name, manifest.target, manifest.precision) == ("networks", "android-arm64", "int8")
    assert (manifest.edgecompile_version, manifest.goldens) == (__version__, 8)
    (picture,), (output,) = manifest.inputs, manifest.outputs
    assert (picture.name, picture.shape, picture.dtype) == ("picture", (1, 3, 16, 16), "float32")
    assert (output.name, output.shape, output.dtype) == ("output", (1, 5), "float32")
    assert picture.scale == pytest.approx(1 / 255, rel=0.01) and picture.zero_point == -128
    assert output.scale > 0 and -128 <= output.zero_point <= 127
    assert [artifact.format for artifact in manifest.artifacts] == ["pte", "ptl", "onnx"]
    for artifact in manifest.artifacts:
        data = (small / artifact.path).read_bytes()
        assert (artifact.size_bytes, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert artifact.operators and artifact.engine_version == load_engine(artifact.engine).version()
    assert manifest.artifacts[0].delegates == {"xnnpack": 1}
    files = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
    assert set(manifest.files) == files - {"manifest.json"}
    assert manifest.toolchain["torch"] == torch.__version__.partition("+")[0]
    settings = {entry.name: (entry.value, entry.origin) for entry in manifest.settings}
    assert settings["target"] == (("android-arm64",), "flag --target")
    assert settings["precision"] == ("int8", "default")


def test_goldens_hold_the_models_own_outputs(small):
    model, _ = networks.small()
    data = [picture for picture, _ in networks.pictures()]
    used = [data[index * 12 // 8] for index in range(8)]
    for index, picture in enumerate(used):
        golden, wanted, reference = (
            torch.from_numpy(np.load(small / f"goldens/{index:03d}-{kind}.npy")) for kind in GOLDEN_KINDS
        )
        assert torch.equal(golden, picture)
        torch.testing.assert_close(wanted, model(picture).detach(), rtol=1e-5, atol=1e-5)
        assert 0 < float((reference - wanted).abs().max()) < 0.1


def test_report(small):
    report = json.loads((small / "report.json").read_text())
    assert (report["name"], report["precision"], report["samples"]) == ("networks", "int8", 12)
    assert [row["name"] for row in report["quality"]] == ["float", "reference", "pte", "ptl", "onnx"]
    for row in report["quality"][2:]:
        assert row["missed"] == []
        assert row["against_float"]["sqnr_db"] > 25 and row["accuracy"] is not None
    steps = [step["name"] for step in report["steps"]]
    assert (steps[0], steps[-2:], len(steps)) == ("capture", ["absorb", "quantize"], 29)
    assert all(row["reason"] and " at 0x" not in row["what"] for row in report["why_not"])
    text = (small / "report.txt").read_text()
    for said in ("networks for android-arm64, int8", "1 xnnpack", "top-1", "kernels (ptl)", "12 samples of"):
        assert said in text


def test_fp32_needs_no_calibration(build):
    bundle = build("small", "--precision", "fp32", data=None)
    manifest = load_bundle(bundle).manifest
    assert (manifest.precision, manifest.goldens) == ("fp32", 8)
    assert manifest.inputs[0].scale is manifest.outputs[0].zero_point is None
    report = json.loads((bundle / "report.json").read_text())
    for row in report["quality"][2:]:
        assert not row["missed"]
        assert row["against_float"]["sqnr_db"] is None or row["against_float"]["sqnr_db"] > 90
    assert "seeded noise" in report["data"] and report["why_not"] == []


def test_int8_without_calibration_is_refused():
    settings = BuildSettings(model=f"{NETWORKS}:small", targets=("ios-arm64",))
    with pytest.raises(CalibrationRequiredError):
        build_bundles(settings)


@pytest.mark.parametrize("network", ["small", "several"])
def test_dynamic_batch(build, network):
    data = {"small": "pictures", "several": "several_inputs"}[network]
    formats = ["--format", "onnx", "--format", "pte" if network == "small" else "ptl"]
    bundle = load_bundle(build(network, "--dynamic-batch", *formats, data=data))
    assert all(entry.shape[0] is None for entry in (*bundle.manifest.inputs, *bundle.manifest.outputs))
    samples = [sample[:1] if network == "small" else sample for sample in list(getattr(networks, data)())[:3]]
    model, _ = getattr(networks, network)()
    for artifact in bundle.artifacts:
        session = load_engine(artifact.engine).load(bundle.read(artifact.path), precise=True)
        single = [session.run(sample) for sample in samples]
        for batch in (3, 40, 1):
            inputs = tuple(torch.cat((list(column) * batch)[:batch]) for column in zip(*samples, strict=True))
            outputs = session.run(inputs)
            expected = torch.utils._pytree.tree_leaves(model(*inputs))
            for index, output in enumerate(outputs):
                alone = torch.cat([single[row % 3][index] for row in range(batch)])
                assert torch.equal(output, alone), (artifact.format, batch)
                torch.testing.assert_close(output, expected[index].detach(), rtol=0, atol=0.1)


def test_several_inputs_and_outputs(build):
    bundle = load_bundle(build("several", data="several_inputs"))
    manifest = bundle.manifest
    assert [(entry.name, entry.dtype) for entry in manifest.inputs] == [
        ("first", "float32"),
        ("second", "float32"),
        ("tokens", "int64"),
    ]
    assert [entry.name for entry in manifest.outputs] == ["scores", "halves_0", "halves_1"]
    assert [entry.shape for entry in manifest.outputs] == [(1, 3), (1, 4), (1, 8)]
    assert manifest.inputs[2].scale is None
    for row in bundle.report_dict()["quality"][2:]:
        assert not row["missed"] and row["identical"] > 0.99


def test_config_file(cli, tmp_path):
    config = tmp_path / "edgecompile.toml"
    config.write_text(
        f'target = ["linux-x86-64"]\nformat = ["ptl"]\ncalibration = "{NETWORKS}:pictures"\noutput = "out"\n'
    )
    finished = cli("build", f"{NETWORKS}:small", "--config", config, "--format", "onnx")
    assert finished.status == 0, finished.err
    manifest = load_bundle(tmp_path / "out" / "linux-x86-64").manifest
    assert [artifact.format for artifact in manifest.artifacts] == ["onnx"]
    origins = {entry.name: entry.origin for entry in manifest.settings}
    assert origins["format"] == "flag --format" and origins["output"] == f"config {config}"


def test_plan_builds_nothing(cli, tmp_path):
    arguments = ["build", f"{NETWORKS}:small", "--target", "ios-arm64", "--precision", "fp32"]
    finished = cli(*arguments, "--output", tmp_path / "out", "--plan")
    assert finished.status == 0 and "error" not in finished.err
    assert "flag --precision" in finished.out and not (tmp_path / "out").exists()
    assert "coverage of ios-arm64, predicted: 10 operators, all in float" in finished.out


@pytest.mark.parametrize(
    ("network", "data", "code", "status"),
    [
        ("small", "no_pictures", "empty-data", 2),
        ("small", "wrong_pictures", "data-mismatch", 2),
        ("small", "several_inputs", "data-mismatch", 2),
        ("several", "pictures", "data-mismatch", 2),
        ("pictures", "pictures", "not-a-module", 2),
        ("absent", "pictures", "model-not-found", 2),
    ],
)
def test_bad_input_leaves_nothing(cli, tmp_path, network, data, code, status):
    calibration = ["--calibration", f"{NETWORKS}:{data}", "--output", tmp_path]
    finished = cli("build", f"{NETWORKS}:{network}", "--target", "ios-arm64", *calibration)
    assert finished.status == status
    assert f"error[{code}]" in finished.err and "Traceback" not in finished.err
    assert (finished.out, list(tmp_path.iterdir())) == ("", [])


def test_a_broken_pass_is_a_bug_of_ours(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(FoldConstants, "run", lambda self, program: 1 / 0)
    arguments = ["build", f"{NETWORKS}:small", "--target", "ios-arm64", "--precision", "fp32", "--no-cache"]
    finished = cli(*arguments, "--output", tmp_path)
    assert finished.status == 70 and "error[pass-broke-program]: pass 'fold-constants'" in finished.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_not_replaced(cli, tmp_path):
    own = tmp_path / "ios-arm64" / "thesis.txt"
    own.parent.mkdir()
    own.write_text("years of work")
    arguments = ["build", f"{NETWORKS}:small", "--target", "ios-arm64", "--precision", "fp32"]
    finished = cli(*arguments, "--output", tmp_path)
    assert finished.status == 2 and "error[output-not-writable]" in finished.err
    settings = BuildSettings(
        model=f"{NETWORKS}:small",
        targets=("ios-arm64",),
        formats=("ptl",),
        precision="fp32",
        output=Path(tmp_path),
    )
    with pytest.raises(OutputNotWritableError):
        build_bundles(settings)
    assert own.read_text() == "years of work" and len(list(tmp_path.iterdir())) == 1
