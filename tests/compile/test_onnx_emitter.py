"""The emitter of ONNX and its engine, on programs whose every quantization grid is written by hand."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from onnx import numpy_helper
from torch import nn
from torch.export import Dim, export
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.emitters.onnx import Onnx
from edgecompile.engines.onnxruntime import Onnxruntime, optimized_operators
from edgecompile.errors import EngineFailedError, LoweringFailedError
from edgecompile.program import Precision, QuantizedProgram
from edgecompile.target import EmitSettings

Grid = tuple[float, int]  # scale, zero point

INPUT: Grid = (0.02, 3)
SIGNED: Grid = (0.03, 5)
POSITIVE: Grid = (0.02, -128)
RELU6: Grid = (6 / 255, -128)


def quantized(value: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Quantize to int8 and back, as PT2E writes it."""
    steps = torch.ops.quantized_decomposed.quantize_per_tensor(value, *grid, -128, 127, torch.int8)
    return torch.ops.quantized_decomposed.dequantize_per_tensor(steps, *grid, -128, 127, torch.int8)


class Weights(nn.Module):
    """An int8 weight of full range, with one scale a channel, and a bias on the accumulator's grid."""

    def __init__(self, *shape: int, bias: bool = True) -> None:
        super().__init__()
        self.register_buffer("steps", torch.randint(-127, 128, shape, dtype=torch.int8))
        # Sums of random products stay within the output grids.
        self.register_buffer("scales", (torch.rand(shape[0]) + 0.5) / 127 / (self.steps[0].numel() ** 0.5))
        self.register_buffer("zero_points", torch.zeros(shape[0], dtype=torch.int64))
        on_grid = torch.randint(-900, 900, shape[:1]) * (self.scales * INPUT[0])
        self.register_buffer("bias", on_grid if bias else None)

    def forward(self) -> torch.Tensor:
        return torch.ops.quantized_decomposed.dequantize_per_channel(
            self.steps, self.scales, self.zero_points, 0, -127, 127, torch.int8
        )


class Units(nn.Module):
    """Every kind of quantized unit, side by side: one output each."""

    grids: ClassVar[dict[str, Grid]] = {
        "conv": SIGNED,
        "conv_relu": POSITIVE,
        "conv_relu6": RELU6,
        "conv_clamp": SIGNED,
        "conv_without_bias": SIGNED,
        "depthwise_relu6": RELU6,
        "pad_conv": SIGNED,
        "pad_between_pairs": SIGNED,
        "conv1d": SIGNED,
        "linear": SIGNED,
        "linear_without_bias_relu": POSITIVE,
        "linear_3d_relu": POSITIVE,
        "add": SIGNED,
        "add_relu": POSITIVE,
        "mean": SIGNED,
    }

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bare = Weights(8, 4, 3, 3), Weights(8, 4, 3, 3, bias=False)
        self.depthwise, self.conv1d = Weights(4, 1, 3, 3), Weights(6, 4, 3)
        self.linear, self.bare_linear = Weights(10, 16), Weights(10, 16, bias=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = quantized(image, INPUT)  # (N, 4, 16, 16)
        conv = F.conv2d(x, self.conv(), self.conv.bias, padding=1)
        padded = quantized(F.pad(x, (0, 1, 0, 1)), INPUT)
        row = quantized(x[:, :, 0], INPUT)  # (N, 4, 16)
        first = quantized(row[:, 0], INPUT)  # (N, 16)
        values = {
            "conv": conv,
            "conv_relu": F.relu(F.conv2d(x, self.conv(), self.conv.bias, stride=2)),
            "conv_relu6": F.hardtanh(F.conv2d(x, self.conv(), self.conv.bias, dilation=2), 0.0, 6.0),
            "conv_clamp": F.hardtanh(F.conv2d(x, self.conv(), self.conv.bias, padding=2), -1.0, 0.7),
            "conv_without_bias": F.conv2d(x, self.bare()),
            "depthwise_relu6": F.relu6(F.conv2d(x, self.depthwise(), self.depthwise.bias, groups=4)),
            "pad_conv": F.conv2d(F.pad(x, (0, 1, 2, 1)), self.conv(), self.conv.bias, stride=2),
            "pad_between_pairs": F.conv2d(padded, self.conv(), self.conv.bias, stride=2),
            "conv1d": F.conv1d(row, self.conv1d(), self.conv1d.bias),
            "linear": F.linear(first, self.linear(), self.linear.bias),
            "linear_without_bias_relu": F.relu(F.linear(first, self.bare_linear())),
            "linear_3d_relu": F.relu(F.linear(row, self.linear(), self.linear.bias)),
            "add": x + quantized(image * 0.7, SIGNED),
            "add_relu": F.relu(x + quantized(image.flip(3), SIGNED)),
            "mean": x.mean((2, 3), keepdim=True),
        }
        return tuple(quantized(values[name], grid) for name, grid in self.grids.items())


class Padded(nn.Module):
    """A float model with padding and an activation to fold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = F.relu6(self.conv(F.pad(image, (0, 1, 0, 1)))) * scale
        return features, features.flatten(1)


class Residual(nn.Module):
    """A stem that both a depthwise convolution and an addition read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = Weights(8, 4, 3, 3), Weights(8, 1, 3, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = quantized(image, INPUT)
        stem = quantized(F.relu(F.conv2d(x, self.stem(), self.stem.bias)), POSITIVE)
        branch = quantized(F.conv2d(stem, self.depthwise(), self.depthwise.bias, padding=1, groups=8), SIGNED)
        total = quantized(stem + branch, SIGNED)
        return quantized(total.mean((2, 3), keepdim=True), SIGNED).view(-1, 8)


def settings(weight_dtype: str = "int8") -> EmitSettings:
    return EmitSettings(emitter="onnx", opset=20, weight_dtype=weight_dtype)


def program_of(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    dynamic: bool = False,
    precision: Precision = "int8",
) -> QuantizedProgram:
    shapes = tuple({0: Dim("batch", max=64)} for _ in inputs) if dynamic else None
    exported = export(module.eval(), inputs, dynamic_shapes=shapes)
    return QuantizedProgram(
        name="small",
        precision=precision,
        exported=exported,
        float_weight_bytes=0,
        unquantized=(),
        steps=(),
    )


@cache
def units() -> tuple[torch.Tensor, tuple[torch.Tensor, ...], dict[str, bytes]]:
    """Return an input, the simulated outputs, and the artifact of each weight type."""
    torch.manual_seed(0)
    module, image = Units(), torch.randn(2, 4, 16, 16)
    program = program_of(module, (image,))
    artifacts = {dtype: Onnx.emit(program, settings(dtype)).data for dtype in ("int8", "uint8")}
    return image, module(image), artifacts


@cache
def unit_outputs(weight_dtype: str, precise: bool) -> tuple[torch.Tensor, ...]:
    image, _, artifacts = units()
    return Onnxruntime.load(artifacts[weight_dtype], precise=precise).run([image])


@pytest.mark.parametrize("unit", Units.grids)
def test_each_unit_is_within_one_step_of_its_simulation(unit: str) -> None:
    index = list(Units.grids).index(unit)
    expected, output = units()[1][index], unit_outputs("int8", True)[index]
    steps = ((output - expected) / Units.grids[unit][0]).round().abs()
    assert expected.unique().numel() > 5, "the test's grid does not fit the unit's values"
    assert output.shape == expected.shape
    assert (steps <= 1).float().mean() >= 0.999


def test_unsigned_weights_are_exact_without_any_option() -> None:
    plain, precise = unit_outputs("uint8", False), unit_outputs("int8", True)
    assert all(torch.equal(left, right) for left, right in zip(plain, precise, strict=True))


@pytest.mark.parametrize("weight_dtype", ["int8", "uint8"])
def test_onnxruntime_computes_every_unit_in_integers(weight_dtype: str) -> None:
    operators = optimized_operators(units()[2][weight_dtype])
    assert operators["QLinearConv"] == 9
    assert operators["QGemm"] == 3
    assert operators["QLinearAdd"] == 2
    assert operators["QLinearGlobalAveragePool"] == 1
    assert operators["Clip"] == 1  # conv_clamp, in steps
    left_in_float = {"Conv", "Gemm", "MatMul", "Add", "Relu", "Pad", "ReduceMean", "GlobalAveragePool"}
    assert not left_in_float & operators.keys()


def test_a_value_that_is_read_twice_keeps_its_branches_in_integers() -> None:
    torch.manual_seed(0)
    emitted = Onnx.emit(program_of(Residual(), (torch.randn(2, 4, 8, 8),), dynamic=True), settings())
    assert optimized_operators(emitted.data) == {
        "DequantizeLinear": 1,
        "QLinearAdd": 1,
        "QLinearConv": 2,
        "QLinearGlobalAveragePool": 1,
        "QuantizeLinear": 1,
        "Reshape": 1,
    }
    assert emitted.operators["QuantizeLinear"] == 6 - 1  # the view's pair has the mean's grid
    assert emitted.declined == ()


@pytest.mark.parametrize("weight_dtype", ["int8", "uint8"])
def test_no_scale_or_zero_point_is_shared(weight_dtype: str) -> None:
    graph = onnx.load_from_string(units()[2][weight_dtype]).graph
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    reads = Counter(name for node in pairs for name in node.input[1:])
    assert len(pairs) > 20
    assert set(reads.values()) == {1}


def test_weights_are_stored_once_and_as_asked() -> None:
    for dtype, artifact in units()[2].items():
        graph = onnx.load_from_string(artifact).graph
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        weights = [array for name, array in arrays.items() if name.endswith("_weight")]
        assert len(weights) == 6  # for the 12 layers that read them
        assert {str(array.dtype) for array in weights} == {dtype}


def test_the_batch_stays_dynamic() -> None:
    torch.manual_seed(0)
    module = Residual()
    emitted = Onnx.emit(program_of(module, (torch.randn(2, 4, 8, 8),), dynamic=True), settings("uint8"))
    graph = onnx.load_from_string(emitted.data).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    session = Onnxruntime.load(emitted.data, precise=False)
    for batch in (1, 3):
        image = torch.randn(batch, 4, 8, 8)
        torch.testing.assert_close(session.run([image])[0], module(image), rtol=0, atol=SIGNED[0] * 1.01)


def test_float_programs_are_emitted_with_names_and_folded_pads() -> None:
    torch.manual_seed(0)
    module, inputs = Padded(), (torch.randn(1, 3, 9, 9), torch.randn(1, 8, 1, 1))
    emitted = Onnx.emit(program_of(module, inputs, precision="fp32"), settings())
    graph = onnx.load_from_string(emitted.data).graph
    assert [value.name for value in graph.input] == ["image", "scale"]
    assert [value.name for value in graph.output] == ["output_0", "output_1"]
    assert "Pad" not in emitted.operators
    outputs = Onnxruntime.load(emitted.data, precise=False).run(inputs)
    torch.testing.assert_close(outputs, module(*inputs))


BEFORE = torch.ones(1, 1, 5, 5).tril(-1).bool()


class Masked(nn.Module):
    """Attention with a mask that is given, turned round, or constant."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("before", BEFORE)

    def forward(self, heads: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        kept = {"given": mask, "turned": ~mask, "constant": self.before}[self.how]
        return F.scaled_dot_product_attention(heads, heads, heads, kept) + mask.float().sum() * 0


@pytest.mark.parametrize("how", ["given", "turned", "constant"])
def test_attention_that_keeps_nothing_gives_zero(how: str) -> None:
    inputs = torch.randn(1, 2, 5, 4), ~BEFORE if how == "turned" else BEFORE
    emitted = Onnx.emit(program_of(Masked(how), inputs, precision="fp32"), settings())
    assert "IsNaN" not in emitted.operators
    (found,) = Onnxruntime.load(emitted.data, precise=False).run(inputs)
    torch.testing.assert_close(found, Masked(how)(*inputs))
    assert not found[:, :, 0].any()


def test_the_artifact_holds_no_trace_of_the_build() -> None:
    artifact = units()[2]["int8"]
    model = onnx.load_from_string(artifact)
    assert b".py" not in artifact
    assert str(Path.cwd()).encode() not in artifact
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def digest() -> str:
    torch.manual_seed(0)
    program = program_of(Residual(), (torch.randn(2, 4, 8, 8),), dynamic=True)
    return hashlib.sha256(Onnx.emit(program, settings()).data).hexdigest()


def test_two_processes_emit_the_same_bytes() -> None:
    command = [sys.executable, "-c", "import test_onnx_emitter as test; print(test.digest())"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    child = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True, check=True
    )
    assert child.stdout.split()[-1] == digest()


def test_a_missing_operator_is_named_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(image).real

    program = program_of(Odd(), (torch.randn(4, 4),), precision="fp32")
    capfd.readouterr()
    with pytest.raises(LoweringFailedError, match="linalg_eig") as failure:
        Onnx.emit(program, settings())
    assert "linalg_eig" in failure.value.lines["where"]
    assert len(failure.value.render().splitlines()) <= 5
    assert capfd.readouterr() == ("", "")


class HalfQuantized(nn.Module):
    """A convolution whose output is not quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = Weights(8, 4, 3, 3)

    def forward(self, output: torch.Tensor) -> torch.Tensor:
        return F.gelu(F.conv2d(quantized(output, INPUT), self.weights(), self.weights.bias))


def test_what_runs_in_float_is_declined_with_its_line() -> None:
    emitted = Onnx.emit(program_of(HalfQuantized(), (torch.randn(1, 4, 8, 8),)), settings())
    (row,) = emitted.declined
    assert row.what == "Conv conv2d"
    assert row.where.startswith("test_onnx_emitter.py:")
    names = [value.name for value in onnx.load_from_string(emitted.data).graph.output]
    assert names == ["output_0"]  # `output` is the input's name


def test_an_opset_that_cannot_be_written_is_refused() -> None:
    program = program_of(Padded(), (torch.randn(1, 3, 9, 9), torch.randn(1, 8, 1, 1)), precision="fp32")
    with pytest.raises(LoweringFailedError, match="opset 13"):
        Onnx.emit(program, EmitSettings(emitter="onnx", opset=13, weight_dtype="int8"))


def test_the_engine_says_in_a_line_what_failed() -> None:
    with pytest.raises(EngineFailedError, match="load") as failure:
        Onnxruntime.load(b"not an artifact", precise=False)
    assert "\n" not in failure.value.lines["found"]
    session = Onnxruntime.load(units()[2]["int8"], precise=False)
    with pytest.raises(EngineFailedError, match="number of inputs"):
        session.run([])
    with pytest.raises(EngineFailedError, match="run"):
        session.run([torch.zeros(1, 2, 3, 4)])


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, proj_size=3, batch_first=True)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.lstm(frames)[0]
        return found


def test_an_lstm_with_a_projection_is_written_step_by_step() -> None:
    torch.manual_seed(0)
    module, inputs = Projected(), (torch.randn(2, 7, 6),)
    emitted = Onnx.emit(program_of(module, inputs, precision="fp32"), settings())
    assert "LSTM" not in emitted.operators
    torch.testing.assert_close(Onnxruntime.load(emitted.data, precise=False).run(inputs)[0], module(*inputs))


def test_a_long_lstm_with_a_projection_is_refused() -> None:
    with pytest.raises(LoweringFailedError, match="proj_size"):
        Onnx.emit(program_of(Projected(), (torch.randn(2, 300, 6),), precision="fp32"), settings())
