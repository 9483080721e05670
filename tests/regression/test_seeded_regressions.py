"""Builds that got worse, each in its own way: the gate that is meant for it must say so, and name it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from edgecompile.emitters import onnx as onnx_emitter
from edgecompile.program import QuantizedProgram
from edgecompile.quantize import distill as last_step
from edgecompile.quantize.layers import constants_of, quantized_layers
from edgecompile.regression.baseline import write_baseline
from edgecompile.regression.check import Check, check, make_baseline

FORMATS = ("pte", "onnx")


@pytest.fixture(scope="module")
def good(build) -> Path:
    return build(format=FORMATS)


@pytest.fixture(scope="module")
def baseline(good, tmp_path_factory) -> Path:
    made, _ = make_baseline(good, core=None, memory=False)
    path = tmp_path_factory.mktemp("baseline") / "shapes.json"
    write_baseline(path, made)
    return path


def failed(found: Check) -> set[tuple[str, str]]:
    return {(row.gate, row.of) for row in found.failures}


def gates(found: Check) -> set[str]:
    return {row.gate for row in found.failures}


@pytest.fixture
def broken_compiler(monkeypatch, build) -> Callable[..., Path]:
    """Build with a compiler that spoils the quantized program, or an artifact."""

    def run(spoil: Callable[[QuantizedProgram], None]) -> Path:
        original = last_step.distill

        def spoiled(*arguments: object) -> QuantizedProgram:
            program = original(*arguments)  # type: ignore[arg-type]
            spoil(program)
            return program

        monkeypatch.setattr(last_step, "distill", spoiled)
        return build(format=FORMATS, cache=False)

    return run


def test_unchanged_build(build, baseline):
    found = check(build(format=FORMATS, cache=False), baseline)
    assert found.passed and found.first_divergence is None
    assert {row.verdict for row in found.rows} == {"passed"}


def test_model_with_perturbed_weights(build, baseline):
    found = check(build("perturbed", format=FORMATS), baseline)
    assert ("float-model", "float") in failed(found)
    (row,) = (row for row in found.failures if row.gate == "float-model")
    assert row.now is not None and row.now < 30 and "weights" in row.detail


def test_compiler_that_perturbs_weights(broken_compiler, baseline):
    def perturb(program: QuantizedProgram) -> None:
        generator = torch.Generator().manual_seed(0)
        for weight in constants_of(program.exported).values():
            if weight.dtype == torch.int8:
                off = weight * (1 + 0.02 * torch.randn(weight.shape, generator=generator))
                weight.copy_(off.round().clamp(-127, 127))

    found = check(broken_compiler(perturb), baseline)
    assert {("sqnr", name) for name in FORMATS} <= failed(found)
    assert "float-model" not in gates(found)
    assert found.first_divergence is not None


def test_head_that_forgot_its_classes(build, baseline):
    found = check(build("untrained", format=FORMATS), baseline)
    assert {("accuracy", name) for name in ("float", *FORMATS)} <= failed(found)


def test_calibration_of_another_distribution(build, baseline):
    found = check(build(calibration="dark_calibration", format=FORMATS), baseline)
    assert ("input-range", "x") in failed(found)
    assert {"sqnr", "layer-sqnr"} <= gates(found)
    assert any("calibration data" in note for note in found.notes)
    assert found.first_divergence is not None and found.first_divergence.startswith("conv2d ")


def test_scale_of_one_layer_doubled(broken_compiler, baseline):
    spoiled = []

    def double(program: QuantizedProgram) -> None:
        layer = [layer for layer in quantized_layers(program.exported) if layer.kind == "conv2d"][2]
        spoiled.append(layer.name)
        for node in (layer.output, *layer.output.users):
            node.update_arg(1, 2 * node.args[1])
        program.exported.graph_module.recompile()

    found = check(broken_compiler(double), baseline)
    assert ("layer-scale", spoiled[0]) in failed(found)
    assert found.first_divergence is not None and found.first_divergence.startswith(f"{spoiled[0]} ")


def test_operator_outside_the_delegate(build, baseline):
    found = check(build("undelegated", format=FORMATS), baseline)
    rows = {row.of: row for row in found.failures if row.gate == "operators"}
    assert "cumsum" in rows["pte"].detail and "in float" in rows
    assert "float-model" not in gates(found)


def test_larger_artifact(build, baseline, monkeypatch):
    original = onnx_emitter._checked_bytes

    def padded(model: onnx.ModelProto) -> bytes:
        size = len(original(model))
        onnx.helper.set_model_props(model, {"left": "x" * (size // 10)})
        return original(model)

    monkeypatch.setattr(onnx_emitter, "_checked_bytes", padded)
    found = check(build(format=FORMATS, cache=False), baseline)
    assert failed(found) == {("size", "onnx")}


def test_emitter_that_spoils_depthwise_layers(build, baseline, monkeypatch):
    """The quantized program is as it was; only the artifact is not, and the layer is found in its engine."""
    original = onnx_emitter._checked_bytes

    def spoiled(model: onnx.ModelProto) -> bytes:
        constants = {item.name: item for item in model.graph.initializer}
        sources = {node.output[0]: node.input[0] for node in model.graph.node if node.input}
        for node in model.graph.node:
            groups = [item.i for item in node.attribute if item.name == "group"]
            if node.op_type == "Conv" and groups and groups[0] > 1:
                weight = constants[sources[node.input[1]]]
                weight.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) // 2, weight.name)
                )
        return original(model)

    monkeypatch.setattr(onnx_emitter, "_checked_bytes", spoiled)
    found = check(build(format=FORMATS, cache=False), baseline)
    assert {of for _, of in failed(found)} == {"onnx"}
    assert {"sqnr", "identical"} <= gates(found)
    assert found.first_divergence is not None and "conv2d_1 " in found.first_divergence


def test_fewer_formats(build, good, baseline):
    found = check(build(format=("pte",)), baseline)
    assert failed(found) == {("artifacts", "onnx")}
    assert "--format onnx" in found.failures[0].detail


def test_larger_tolerance_lets_it_pass(build, baseline):
    bundle = build("undelegated", format=FORMATS)
    skipped = check(bundle, baseline, skip=["operators"])
    assert "operators" not in {row.gate for row in skipped.rows} and skipped.skipped == ("operators",)
    allowed = check(bundle, baseline, overrides={"more_operators": 10, "more_float_operators": 10})
    assert "operators" not in gates(allowed)


@pytest.mark.slow
def test_unchanged_builds_pass_twenty_times(build, baseline):
    verdicts = [check(build(format=FORMATS, cache=False), baseline).passed for _ in range(20)]
    assert verdicts == [True] * 20
