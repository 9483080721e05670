"""Quantized layers as `quantized::` kernels of TorchScript, one function a kind.

Between kernels activations are quint8 tensors: the same integers moved by 128, with the zero point moved too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from edgecompile.graph_edit import per_axis, same_shape
from edgecompile.quantize.layers import (
    BOUNDED,
    DEQUANTIZE,
    QUANTIZE,
    QuantizationParameters,
    QuantizedLayer,
    Weights,
)

if TYPE_CHECKING:
    from edgecompile.emitters.torchscript_lite import Printer

UNSIGNED = 128  # what moves int8 to quint8
_INT8_MIN, _INT8_MAX = -128, 127
_RESHAPES = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)
# What gives no tensor of its own.
_MOVES = (
    *_RESHAPES,
    torch.ops.aten.permute.default,
    torch.ops.aten.slice.Tensor,
    torch.ops.aten.expand.default,
    QUANTIZE,
    DEQUANTIZE,
)
# What QNNPACK's addition takes of the ratio of an input's scale to the output's.
_LEAST_RATIO, _MOST_RATIO = 2.0**-14, 2.0**8


def quint8(parameters: QuantizationParameters) -> tuple[str, str]:
    """Return scale and zero point of the same integers moved to quint8, as source."""
    return repr(parameters.scale), str(parameters.zero_point + UNSIGNED)


def _operand(printer: Printer, layer: QuantizedLayer, index: int = 0) -> str:
    return printer.integers(layer.inputs[index])


def _clamp(layer: QuantizedLayer) -> tuple[str, bool]:
    """Return the kernel's suffix, and whether a clamp must follow it.

    Saturation at the ends of the integer range does what the clamp does where their bounds agree.
    """
    low, high = layer.quantized_bounds
    fused_low = layer.output_parameters.zero_point
    if low == _INT8_MIN:
        return ("_relu" if layer.clamp is not None and low == fused_low else ""), high != _INT8_MAX
    if low == fused_low:
        return "_relu", high != _INT8_MAX
    return "", True


def _finish(printer: Printer, layer: QuantizedLayer, operator: str, *arguments: str) -> None:
    """Print a kernel with its output's quantization, and the clamp where the kernel has none."""
    suffix, clamp = _clamp(layer)
    scale, zero_point = quint8(layer.output_parameters)
    name = layer.output.name
    result = f"{name}_unclamped" if clamp else name
    printer.assign(result, f"{operator}{suffix}", *arguments, scale, zero_point)
    if clamp:
        low, high = layer.quantized_bounds
        parameters = layer.output_parameters
        bounds = [repr((bound - parameters.zero_point) * parameters.scale) for bound in (low, high)]
        printer.assign(name, "aten::clamp", _in_order(printer, result), *bounds)


def quantized_weight(weights: Weights) -> torch.Tensor:
    scales = weights.scales.double()
    zero_points = torch.zeros(len(scales), dtype=torch.int64)
    tensor: torch.Tensor = torch._make_per_channel_quantized_tensor(
        weights.weight.contiguous(), scales, zero_points, 0
    )
    return tensor


def _convolution(printer: Printer, layer: QuantizedLayer) -> None:
    assert layer.weights is not None
    spatial = layer.compute.meta["val"].dim() - 2
    defaults: list[Any] = [[1] * spatial, [0] * spatial, [1] * spatial, 1]
    given: list[Any] = list(layer.compute.args[3:])
    stride, padding, dilation, groups = [*given, *defaults[len(given) :]]
    kernel = getattr(torch.ops.quantized, f"{layer.kind}_prepack")
    packed = kernel(
        quantized_weight(layer.weights),
        layer.weights.bias,
        per_axis(stride, spatial),
        per_axis(padding, spatial),
        per_axis(dilation, spatial),
        groups,
    )
    value = _operand(printer, layer)
    if layer.padding is not None:
        value = f"{layer.name}_padded"
        margins = _literal(layer.padding.args[1])
        printer.assign(value, "aten::constant_pad_nd", _operand(printer, layer), margins, "0.")
    attribute = printer.attribute(f"{layer.name}_packed", packed)
    _finish(printer, layer, f"quantized::{layer.kind}", value, attribute)


def _linear(printer: Printer, layer: QuantizedLayer) -> None:
    assert layer.weights is not None
    packed = torch.ops.quantized.linear_prepack(quantized_weight(layer.weights), layer.weights.bias)
    attribute = printer.attribute(f"{layer.name}_packed", packed)
    _finish(printer, layer, "quantized::linear", _operand(printer, layer), attribute)


def _binary(printer: Printer, layer: QuantizedLayer) -> None:
    ratios = [item.scale / layer.output_parameters.scale for item in layer.input_parameters]
    if layer.kind == "add" and not all(_LEAST_RATIO <= ratio < _MOST_RATIO for ratio in ratios):
        printer.print_in_float(layer)
        return
    # The kernels make their output as large as the first operand, and anew where the second is larger.
    operands = [_operand(printer, layer, index) for index in range(2)]
    if not same_shape(layer.inputs[0], layer.compute):
        operands.reverse()
    _finish(printer, layer, f"quantized::{layer.kind}", *operands)


def _concatenation(printer: Printer, layer: QuantizedLayer) -> None:
    values = ", ".join(map(printer.integers, layer.inputs))
    axis = layer.compute.args[1] if len(layer.compute.args) > 1 else 0
    scale, zero_point = quint8(layer.output_parameters)
    printer.assign(layer.output.name, "quantized::cat", f"[{values}]", repr(axis), scale, zero_point)


def _same_scale(printer: Printer, layer: QuantizedLayer) -> None:
    """An operator that moves or compares integers: ATen's own takes quantized tensors."""
    # Kernels return channels-last tensors, which a view cannot always reinterpret.
    name = "reshape" if layer.kind == "view" else layer.kind
    arguments = [_literal(argument) for argument in layer.compute.args[1:]]
    value = _operand(printer, layer)
    if layer.kind == "hardtanh" or (layer.kind == "upsample_nearest2d" and _is_reshaped(layer.inputs[0])):
        value = _in_order(printer, value)
    printer.assign(layer.output.name, f"aten::{name}", value, *arguments)


def _average_pool(printer: Printer, layer: QuantizedLayer) -> None:
    """Average pooling; QNNPACK's kernel counts the padding, whatever it is told.

    PyTorch's own kernel does not, and it is taken for windows that may reach beyond the end (`ceil_mode`):
    where these add a row or a column, it is cut off again.
    """
    defaults: list[Any] = [None, [], 0, False, True, None]
    given = [*layer.compute.args[1:], *defaults[len(layer.compute.args) - 1 :]]
    kernel, stride, padding = (per_axis(item, 2) for item in given[:3])
    arguments = [_literal(argument) for argument in given]
    name = layer.output.name
    if given[3] or given[4] or not any(padding):
        printer.assign(name, "aten::avg_pool2d", _operand(printer, layer), *arguments)
        return
    before, after = (tuple(node.meta["val"].shape[2:]) for node in (layer.inputs[0], layer.compute))
    if not all(isinstance(size, int) for size in before):
        printer.print_in_float(layer)
        return
    arguments[3] = "True"
    steps = [("aten::avg_pool2d", arguments)]
    for axis, size, length, step, pad in zip((0, 1), before, kernel, stride or kernel, padding, strict=True):
        if (size + 2 * pad - length) % step:
            steps.append(("aten::slice", [str(2 + axis), "0", str(after[axis])]))
    value = _operand(printer, layer)
    if _is_reshaped(layer.inputs[0]):
        value = _in_order(printer, value)
    for index, (operator, rest) in enumerate(steps, start=1):
        result = name if index == len(steps) else f"{name}_{index}"
        printer.assign(result, operator, value, *rest)
        value = result


def _is_reshaped(value: Node) -> bool:
    """Tell whether a value may be a view into another one with strides that no kernel gives.

    A sample of tokens that is turned and reshaped to a picture is both in the order of its axes and not: one
    half of PyTorch's kernels for pictures writes channels last what the other half reads in order.
    """
    while value.target in _MOVES:
        source = value.args[0]
        assert isinstance(source, Node)
        value = source
        if value.target in _RESHAPES:
            return True
    return False


def _bounded(printer: Printer, layer: QuantizedLayer) -> None:
    """An activation whose quantized kernel has the output's scale and zero point built in."""
    parameters = layer.output_parameters
    if (parameters.scale, parameters.zero_point) != BOUNDED[layer.compute.target]:
        printer.print_in_float(layer)
        return
    printer.assign(layer.output.name, f"aten::{layer.kind}", _operand(printer, layer))


def _hardswish(printer: Printer, layer: QuantizedLayer) -> None:
    printer.assign(
        layer.output.name, "quantized::hardswish", _operand(printer, layer), *quint8(layer.output_parameters)
    )


def _leaky_relu(printer: Printer, layer: QuantizedLayer) -> None:
    slope = layer.compute.args[1] if len(layer.compute.args) > 1 else 0.01
    parameters = (repr(slope), "False", *quint8(layer.output_parameters))
    printer.assign(layer.output.name, "quantized::leaky_relu", _operand(printer, layer), *parameters)


def _elu(printer: Printer, layer: QuantizedLayer) -> None:
    scales = [repr(item) for item in (*layer.compute.args[1:], *(1.0, 1, 1)[len(layer.compute.args) - 1 :])]
    printer.assign(
        layer.output.name,
        "quantized::elu",
        _operand(printer, layer),
        *quint8(layer.output_parameters),
        *scales,
    )


def _in_order(printer: Printer, value: str) -> str:
    """Print a copy of a value with its elements in the order of its axes, and return its name.

    QNNPACK's clamp reads channels-last tensors, as other kernels return them, in that order.
    """
    copy = f"{value}_in_order"
    printer.assign(copy, "aten::contiguous", value)
    return copy


def _literal(argument: object) -> str:
    return repr(list(argument)) if isinstance(argument, list | tuple) else repr(argument)


LOWERINGS: dict[str, Callable[[Printer, QuantizedLayer], None]] = {
    "conv1d": _convolution,
    "conv2d": _convolution,
    "linear": _linear,
    "add": _binary,
    "mul": _binary,
    "cat": _concatenation,
    "sigmoid": _bounded,
    "hardsigmoid": _bounded,
    "tanh": _bounded,
    "hardswish": _hardswish,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "avg_pool2d": _average_pool,
    **dict.fromkeys(
        (
            *("view", "reshape", "permute", "slice", "constant_pad_nd", "max_pool2d", "relu", "hardtanh"),
            *("expand", "expand_as", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest2d", "flip"),
        ),
        _same_scale,
    ),
}
