"""The integer-exact reference: a quantized program run in the arithmetic that the engines document.

Every convolution and linear layer is computed in exact integers and requantized once, as XNNPACK and
QNNPACK do it (QNNPACK multiplies by the reciprocal of s_y):

    accumulator = sum((x - zero_point_x) * w) + bias                  int32, exact
    y = round_half_even(float32(accumulator) * float32(s_x * s_w / s_y)) + zero_point_y, clamped

Jacob et al. 2018, section 2; the float32 multiplier is that of XNNPACK's and QNNPACK's fp32 kernels.
Other operators are computed in float64 and rounded once, except additions, for which `Arithmetic` names
an engine's documented fixed-point form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg
from torch.nn import functional

from edgecompile.graph_edit import user_input_names
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    QUANTIZE,
    QuantizationParameters,
    QuantizedLayer,
    constants_of,
    parameters_of,
    quantized_layers,
)

aten = torch.ops.aten

# The largest distance of an int8 activation from its zero point.
_LARGEST_ACTIVATION = 255


class Reference:
    """Runs a program: quantized layers in exact integer arithmetic, everything else in float32.

    Attributes:
        layers: The program's quantized layers, in order.
    """

    def __init__(self, exported: ExportedProgram, arithmetic: Arithmetic = "exact") -> None:
        self.layers = quantized_layers(exported)
        self._graph = exported.graph
        self._constants = constants_of(exported)
        self._input_names = user_input_names(exported)
        self._arithmetic: Arithmetic = arithmetic
        self._layer_at = {layer.output: layer for layer in self.layers}
        self._skipped = {node for layer in self.layers for node in layer.nodes}

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        observe: Callable[[QuantizedLayer, tuple[torch.Tensor, ...], torch.Tensor], None] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Run the program on its inputs, batch first.

        Args:
            inputs: The model's inputs, in order.
            observe: Called after each quantized layer with its int8 inputs and its int8 output.

        Returns:
            The model's outputs.
        """
        values: dict[Node, Any] = {}
        given = dict(zip(self._input_names, inputs, strict=True))
        for node in self._graph.nodes:
            if node.op == "placeholder":
                values[node] = given.get(node.name, self._constants.get(node.name))
            elif node.op == "output":
                outputs = map_arg(node.args[0], values.__getitem__)
                return tuple(outputs)
            elif node in self._layer_at:
                layer = self._layer_at[node]
                operands = tuple(values[source.args[0]] for source in layer.inputs)  # type: ignore[index]
                values[node] = compute_layer(layer, operands, self._arithmetic)
                if observe is not None:
                    observe(layer, operands, values[node])
            elif node not in self._skipped:
                values[node] = self._evaluate(node, values)
        raise AssertionError("a graph ends in its output")

    def _evaluate(self, node: Node, values: dict[Node, Any]) -> Any:
        if node.target is QUANTIZE:
            return quantize_tensor(values[node.args[0]], parameters_of(node))  # type: ignore[index]
        if node.target is DEQUANTIZE:
            # Only nodes in float read the real value; layers take the integers.
            if all(user in self._skipped for user in node.users):
                return None
            return dequantize_tensor(values[node.args[0]], parameters_of(node))  # type: ignore[index]
        if all(user in self._skipped for user in node.users):
            return None  # A weight's dequantize node: the layer holds the integers.
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        assert callable(node.target)
        return node.target(*args, **kwargs)


def quantize_tensor(value: torch.Tensor, parameters: QuantizationParameters) -> torch.Tensor:
    """Quantize as the engines do: multiply by the float32 reciprocal, round half to even."""
    reciprocal = torch.tensor(1.0, dtype=torch.float32) / torch.tensor(parameters.scale, dtype=torch.float32)
    rounded = torch.round(value * reciprocal) + parameters.zero_point
    return rounded.clamp(parameters.quant_min, parameters.quant_max).to(torch.int8)


def dequantize_tensor(value: torch.Tensor, parameters: QuantizationParameters) -> torch.Tensor:
    """Return the real value in float32."""
    return (value.to(torch.float32) - parameters.zero_point) * parameters.scale


def compute_layer(
    layer: QuantizedLayer, inputs: Sequence[torch.Tensor], arithmetic: Arithmetic
) -> torch.Tensor:
    """Compute one layer on int8 inputs; returns its int8 output."""
    if layer.weights is not None:
        return _requantize(layer, _accumulate(layer, inputs[0]), arithmetic)
    if layer.kind == "add" and arithmetic == "xnnpack":
        return _xnnpack_add(layer, inputs)
    if layer.kind == "add" and arithmetic == "qnnpack":
        return _qnnpack_add(layer, inputs)
    return _compute_real(layer, inputs)


def _accumulate(layer: QuantizedLayer, value: torch.Tensor) -> torch.Tensor:
    """Return the exact integer accumulator, bias included, as float64."""
    assert layer.weights is not None
    parameters = layer.input_parameters[0]
    shifted = value.to(torch.float32) - parameters.zero_point  # integers of at most 9 bits
    if layer.padding is not None:
        shifted = functional.pad(shifted, layer.padding.args[1])  # type: ignore[arg-type]
    total = _exact_sum(layer, shifted, layer.weights.weight.to(torch.float32))
    if layer.weights.bias is None:
        return total
    scale = layer.weights.scales.double() * parameters.scale
    bias = torch.round(layer.weights.bias.double() / scale)
    return total + _per_channel(layer, bias)


def _exact_sum(layer: QuantizedLayer, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the layer's sum of products as float64, every partial sum an exact integer.

    Float32 holds integers below 2**24, and adds them exactly in any order. Longer sums are split over the
    input channels; a grouped convolution cannot be split so, and takes float64 where it must.
    """
    channel_axis = -1 if layer.kind == "linear" else 1
    channels = weight.shape[1]
    if channels != value.shape[channel_axis]:
        dtype = torch.float32 if _fits_float32(weight) else torch.float64
        return _linear_operation(layer, value.to(dtype), weight.to(dtype)).double()
    size = channels
    while size > 1 and not all(_fits_float32(part) for part in torch.split(weight, size, dim=1)):
        size = (size + 1) // 2
    parts = zip(torch.split(value, size, dim=channel_axis), torch.split(weight, size, dim=1), strict=True)
    return sum(
        (_linear_operation(layer, chunk, kernel).double() for chunk, kernel in parts),
        start=torch.zeros((), dtype=torch.float64),
    )


def _fits_float32(weight: torch.Tensor) -> bool:
    largest_sum = float(weight.abs().flatten(1).sum(1).max()) * _LARGEST_ACTIVATION
    return largest_sum < 2**24


def _linear_operation(layer: QuantizedLayer, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if layer.kind == "linear":
        return functional.linear(value, weight)
    assert callable(layer.compute.target)
    result: torch.Tensor = layer.compute.target(value, weight, None, *layer.compute.args[3:])
    return result


def _requantize(layer: QuantizedLayer, total: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
    assert layer.weights is not None
    output = layer.output_parameters
    scale_in = torch.tensor(layer.input_parameters[0].scale, dtype=torch.float32)
    scale_out = torch.tensor(output.scale, dtype=torch.float32)
    multiplier = layer.weights.scales * scale_in  # float32, (K,)
    # QNNPACK multiplies by the reciprocal, which can differ in the last bit.
    multiplier = multiplier * (1 / scale_out) if arithmetic == "qnnpack" else multiplier / scale_out
    scaled = total.to(torch.float32) * _per_channel(layer, multiplier)
    low, high = layer.quantized_bounds
    return (torch.round(scaled) + output.zero_point).clamp(low, high).to(torch.int8)


def _per_channel(layer: QuantizedLayer, value: torch.Tensor) -> torch.Tensor:
    if layer.kind == "linear":
        return value
    spatial = layer.compute.meta["val"].dim() - 2
    return value.reshape(1, -1, *[1] * spatial)


def _compute_real(layer: QuantizedLayer, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compute an operator without weights in float64, clamp, and round once."""
    real = {
        node: (value.double() - parameters.zero_point) * parameters.scale
        for node, value, parameters in zip(layer.inputs, inputs, layer.input_parameters, strict=True)
    }
    args, kwargs = map_arg((layer.compute.args, layer.compute.kwargs), real.__getitem__)
    assert callable(layer.compute.target)
    result: torch.Tensor = layer.compute.target(*args, **kwargs)
    output = layer.output_parameters
    low, high = layer.quantized_bounds
    return (torch.round(result / output.scale) + output.zero_point).clamp(low, high).to(torch.int8)


def _xnnpack_add(layer: QuantizedLayer, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """XNNPACK's qs8 addition: multipliers of up to 21 bits, halves rounded up."""
    total, shift = _fixed_point_sum(layer, inputs, 20)
    return _add_output(layer, (total + (1 << (shift - 1))) >> shift)


def _qnnpack_add(layer: QuantizedLayer, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """QNNPACK's q8 addition: multipliers of up to 22 bits, halves rounded away from zero."""
    total, shift = _fixed_point_sum(layer, inputs, 21)
    mask = (1 << shift) - 1
    remainder = (total & mask) - (total < 0).to(torch.int64)
    return _add_output(layer, (total >> shift) + (remainder > mask >> 1).to(torch.int64))


def _fixed_point_sum(
    layer: QuantizedLayer, inputs: Sequence[torch.Tensor], bits: int
) -> tuple[torch.Tensor, int]:
    """Return the sum with both scale ratios as integers over one power of two, and its exponent."""
    scales = [torch.tensor(parameters.scale, dtype=torch.float32) for parameters in layer.input_parameters]
    ratios = [float(scale / torch.tensor(layer.output_parameters.scale)) for scale in scales]
    _, exponent = math.frexp(max(ratios))
    shift = bits - (exponent - 1)
    total = torch.zeros(inputs[0].shape, dtype=torch.int64)
    for value, parameters, ratio in zip(inputs, layer.input_parameters, ratios, strict=True):
        multiplier = round(math.ldexp(ratio, shift))
        total = total + (value.to(torch.int64) - parameters.zero_point) * multiplier
    return total, shift


def _add_output(layer: QuantizedLayer, scaled: torch.Tensor) -> torch.Tensor:
    low, high = layer.quantized_bounds
    return (scaled + layer.output_parameters.zero_point).clamp(low, high).to(torch.int8)
