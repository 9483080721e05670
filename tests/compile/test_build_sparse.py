"""Builds with --sparsity: zeros in every artifact, an honest report, and what goes wrong is said."""

import json

import networks
import numpy as np
import pytest

from edgecompile.artifact import CONSTANTS

NETWORKS = networks.__file__
DATA = ("--calibration", f"{NETWORKS}:textures", "--evaluation", f"{NETWORKS}:other_textures")
TARGET = "linux-x86-64"


@pytest.fixture(scope="module")
def patterned(built):
    return built("--sparsity", "2:4")


def integers(bundle):
    """Return the int8 weights of layers that are not depthwise."""
    constants = np.load(bundle.path / CONSTANTS)
    arrays = [constants[name] for name in constants.files]
    return [array for array in arrays if array.dtype == np.int8 and array.ndim > 1 and array.shape[1] > 1]


def layouts(weight):
    """Return a weight's bytes in the layouts that formats store it in, signed or not."""
    arrays = [weight, np.moveaxis(weight, 1, -1), weight.T]
    arrays += [(array.astype(np.int16) + 128).astype(np.uint8) for array in arrays]
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def test_the_pattern_is_in_the_integers_of_every_format(patterned):
    bundle, _ = patterned
    weights = integers(bundle)
    assert sorted(weight.shape[:2] for weight in weights) == [(10, 64), (32, 3), (32, 96), (64, 32), (96, 32)]
    for weight in weights:
        rows = np.moveaxis(weight, 1, -1)
        rows = np.pad(rows, [*[(0, 0)] * (rows.ndim - 1), (0, -rows.shape[-1] % 4)])
        assert ((rows.reshape(-1, 4) != 0).sum(1) <= 2).all()
        assert weight.any()
    for item in bundle.artifacts:
        data = (bundle.path / item.path).read_bytes()
        assert all(any(layout in data for layout in layouts(weight)) for weight in weights), item.format
    assert {item.format for item in bundle.artifacts} == {"pte", "ptl", "onnx"}


def test_the_report_has_each_layer_and_what_each_artifact_takes(patterned):
    bundle, finished = patterned
    sparsity = bundle.report_dict()["sparsity"]
    assert (sparsity["wanted"], sparsity["share"]) == ("2:4", 0.5)
    assert 0.49 < sparsity["zeroed"] <= sparsity["found"] < 0.52
    rows = {row["name"]: row for row in sparsity["layers"]}
    assert list(rows) == ["stem.0", "expand.0", "project.0", "last.0", "head"]
    assert rows["stem.0"]["zeros"] == 32 * 9  # two of three channels stay
    assert rows["last.0"]["shape"] == [64, 32, 3, 3]
    assert all(row["zeros"] <= row["found"] < row["weights"] for row in rows.values())
    for row, item in zip(sparsity["artifacts"], bundle.artifacts, strict=True):
        assert (row["format"], row["size_bytes"]) == (item.format, item.size_bytes)
        assert row["compressed_bytes"] < 0.85 * item.size_bytes
        assert row["sparse_kernels"]
    text = " ".join(finished.out.split())
    assert "of the weights of 5 layers were zeroed (2:4 asked for)" in text
    assert "none: XNNPACK's sparse kernels are for float alone" in text
    assert "zeros make no artifact faster" in text
    assert "float: the model with zeros" in text
    why = [row for row in bundle.report_dict()["why_not"] if row["stage"] == "sparsify"]
    assert [row["what"] for row in why] == ["depthwise.0"]


def test_what_the_other_weights_make_up_for_is_told(patterned):
    zeroed, compensated = patterned[0].report_dict()["sparsity"]["recovery"]
    assert (zeroed["step"], compensated["step"]) == ("zeroed", "compensated")
    assert compensated["sqnr_db"] > zeroed["sqnr_db"] + 6
    rows = patterned[0].report_dict()["quality"]
    assert not [row["missed"] for row in rows if row["missed"]]


def test_zeros_survive_adaptive_rounding_training_and_pruning(built, tmp_path):
    config = tmp_path / "edgecompile.toml"
    config.write_text(
        'sparsity = 0.6\nprune = 0.3\n[pruning]\nexclude = ["st*"]\n'
        '[quantization]\nweight_rounding = "adaptive"\nrounding_steps = 30\ndistillation_steps = 10\n'
    )
    bundle, _ = built("--config", config, "--format", "onnx")
    report = bundle.report_dict()
    assert report["pruning"]["removed"] == pytest.approx(0.3, abs=0.03)
    rows = {row["name"]: row for row in report["sparsity"]["layers"]}
    assert "stem.0" not in rows
    assert report["sparsity"]["zeroed"] == pytest.approx(0.6, abs=1e-3)
    assert all(row["found"] >= row["zeros"] > 0 for row in rows.values())
    found = sum(int((weight == 0).sum()) for weight in integers(bundle) if weight.shape[1] != 3)
    assert found == sum(row["found"] for row in rows.values())
    settings = {item.name: (item.value, item.origin) for item in bundle.manifest.settings}
    assert settings["sparsity"] == ("0.6", f"config {config}")


def test_in_float_and_without_data_the_other_weights_stay(built):
    bundle, _ = built("--sparsity", "0.9", "--precision", "fp32", "--format", "onnx", data=())
    sparsity = bundle.report_dict()["sparsity"]
    assert [row["step"] for row in sparsity["recovery"]] == ["zeroed"]
    assert sparsity["zeroed"] == sparsity["found"] == pytest.approx(0.9, abs=1e-3)
    assert sparsity["artifacts"][0]["compressed_bytes"] < 0.3 * sparsity["artifacts"][0]["size_bytes"]


def test_a_second_build_zeroes_nothing_again(cli, tmp_path):
    options = ("--sparsity", "0.25", "--format", "onnx", "--output", tmp_path, *DATA)
    spec = f"{NETWORKS}:prunable"
    first = cli("build", spec, "--target", TARGET, *options)
    assert first.status == 0, first.err
    planned = json.loads(cli("build", spec, "--target", TARGET, *options, "--plan", "--json").out)
    assert {"stage": "zero weights", "reused": True} in planned["stages"], first.err
    assert {"stage": "make up for zeros", "reused": True} in planned["stages"]
    assert all(row["reused"] for row in planned["stages"])
    plan = {row["name"]: row for row in planned["plan"]}
    assert (plan["sparsity"]["value"], plan["sparsity"]["origin"]) == ("0.25", "flag --sparsity")
    other = cli("build", spec, "--target", TARGET, *options, "--sparsity", "1:4", "--plan", "--json")
    assert {"stage": "zero weights", "reused": False} in json.loads(other.out)["stages"]


@pytest.mark.parametrize("text", ["1.2", "5:4", "abc", "0"])
def test_another_sparsity_is_a_usage_error_before_any_work(built, text):
    lines = built("--sparsity", text, status=2).err
    assert f"error[usage]: {text!r} is no sparsity" in lines
    assert "where:    sparsity: flag --sparsity" in lines
    assert "above 0 and below 1, as 0.5" in lines
    assert "or N:M with 0 < N < M" in lines
    assert "capture" not in lines


def test_a_config_says_what_it_may_not_be(built, tmp_path):
    config = tmp_path / "edgecompile.toml"
    config.write_text("sparsity = true\n")
    assert "error[invalid-config]" in built("--config", config, status=2).err
    config.write_text("sparsity = 3\n")
    lines = built("--config", config, status=2).err
    assert "error[usage]: '3.0' is no sparsity" in lines
    assert f"sparsity: config {config}" in lines


def test_a_model_without_such_layers(built):
    options = ("--sparsity", "0.5", "--precision", "fp32")
    lines = built(*options, network="tied", data=(), status=3).err
    assert "error[nothing-to-prune]: no weight of the model can become zero" in lines
    assert "layer: its weight is used elsewhere too" in lines


def test_a_rule_for_no_layer(built):
    lines = built("--sparsity", "0.5", "--pruning", 'exclude=["stem.1"]', status=2).err
    assert "error[unknown-layer]: there is no layer 'stem.1'" in lines
    assert "did you mean 'stem.0'?" in lines
