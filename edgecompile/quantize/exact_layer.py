"""One quantized layer in exact integer arithmetic, in the forms that the engines document.

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
from collections.abc import Sequence

import torch
from torch.fx import map_arg
from torch.nn import functional

from edgecompile.graph_edit import shape_of
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.layers import QuantizedLayer, Weights

# The largest distance of an int8 activation from its zero point.
_LARGEST_ACTIVATION = 255
# Float32 holds all integers up to here, and adds them exactly in any order.
_EXACT_IN_FLOAT32 = 2**24
# Of a weight whose floats are kept from run to run; larger ones would fill the memory.
_KEPT_ELEMENTS = 1 << 21


class ExactLayer:
    """A layer with what its runs share: weights as floats, integer biases, multipliers, bounds."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.layer = layer
        self.sources = layer.sources
        self._bounds = layer.quantized_bounds
        self._sums = None if layer.weights is None else _ExactSums(layer, layer.weights)
        self._multipliers: dict[bool, torch.Tensor] = {}

    def form(self, arithmetic: Arithmetic) -> str:
        """Return a name that two arithmetics share where they compute this layer alike."""
        if self._sums is not None:
            return "reciprocal" if arithmetic == "qnnpack" else "quotient"
        return arithmetic if self._is_fixed_point(arithmetic) else "real"

    def compute(self, inputs: Sequence[torch.Tensor], arithmetic: Arithmetic) -> torch.Tensor:
        """Return the int8 output for int8 inputs, batch first."""
        if self._sums is not None:
            return self._requantize(self._sums.accumulate(inputs[0]), arithmetic)
        if self._is_fixed_point(arithmetic):
            return self._xnnpack_add(inputs) if arithmetic == "xnnpack" else self._qnnpack_add(inputs)
        return self._compute_real(inputs)

    def _is_fixed_point(self, arithmetic: Arithmetic) -> bool:
        """Tell whether an engine adds in fixed point; what PyTorch broadcasts, QNNPACK does not compute."""
        if self.layer.kind != "add" or arithmetic == "exact":
            return False
        left, right = (shape_of(source) for source in self.layer.sources)
        return arithmetic == "xnnpack" or left == right

    def _requantize(self, total: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
        """Scale the accumulators, which are the caller's no more, and round."""
        by_reciprocal = arithmetic == "qnnpack"
        if by_reciprocal not in self._multipliers:
            self._multipliers[by_reciprocal] = self._multiplier(by_reciprocal)
        scaled = total.mul_(self._multipliers[by_reciprocal]).round_()
        return scaled.add_(self.layer.output_parameters.zero_point).clamp_(*self._bounds).to(torch.int8)

    def _multiplier(self, by_reciprocal: bool) -> torch.Tensor:
        assert self.layer.weights is not None
        scale_in = torch.tensor(self.layer.input_parameters[0].scale, dtype=torch.float32)
        scale_out = torch.tensor(self.layer.output_parameters.scale, dtype=torch.float32)
        multiplier = self.layer.weights.scales * scale_in  # float32, (K,)
        # QNNPACK multiplies by the reciprocal, which can differ in the last bit.
        multiplier = multiplier * (1 / scale_out) if by_reciprocal else multiplier / scale_out
        return _per_channel(self.layer, multiplier)

    def _compute_real(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute an operator without weights in float64, clamp, and round once."""
        layer = self.layer
        real = {
            node: (value.double() - parameters.zero_point) * parameters.scale
            for node, value, parameters in zip(layer.inputs, inputs, layer.input_parameters, strict=True)
        }
        args, kwargs = map_arg((layer.compute.args, layer.compute.kwargs), real.__getitem__)
        assert callable(layer.compute.target)
        result: torch.Tensor = layer.compute.target(*args, **kwargs)
        output = layer.output_parameters
        low, high = self._bounds
        return (torch.round(result / output.scale) + output.zero_point).clamp(low, high).to(torch.int8)

    def _xnnpack_add(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """XNNPACK's qs8 addition: multipliers of up to 21 bits, halves rounded up."""
        total, shift = self._fixed_point_sum(inputs, 20)
        return self._add_output((total + (1 << (shift - 1))) >> shift)

    def _qnnpack_add(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """QNNPACK's q8 addition: multipliers of up to 22 bits, halves rounded away from zero."""
        total, shift = self._fixed_point_sum(inputs, 21)
        mask = (1 << shift) - 1
        remainder = (total & mask) - (total < 0).to(torch.int64)
        return self._add_output((total >> shift) + (remainder > mask >> 1).to(torch.int64))

    def _fixed_point_sum(self, inputs: Sequence[torch.Tensor], bits: int) -> tuple[torch.Tensor, int]:
        """Return the sum with both scale ratios as integers over one power of two, and its exponent."""
        layer = self.layer
        scales = [torch.tensor(item.scale, dtype=torch.float32) for item in layer.input_parameters]
        ratios = [float(scale / torch.tensor(layer.output_parameters.scale)) for scale in scales]
        _, exponent = math.frexp(max(ratios))
        shift = bits - (exponent - 1)
        total = torch.zeros((), dtype=torch.int64)
        for value, parameters, ratio in zip(inputs, layer.input_parameters, ratios, strict=True):
            multiplier = round(math.ldexp(ratio, shift))
            total = total + (value.to(torch.int64) - parameters.zero_point) * multiplier
        return total, shift

    def _add_output(self, scaled: torch.Tensor) -> torch.Tensor:
        low, high = self._bounds
        return (scaled + self.layer.output_parameters.zero_point).clamp(low, high).to(torch.int8)


class _ExactSums:
    """The accumulators of a convolution or linear layer, every partial sum an exact integer.

    Where no sum can leave what float32 holds exactly, one float32 operation gives them all. Longer sums are
    split over the input channels; a grouped convolution cannot be split so, and takes float64 where it must.
    """

    def __init__(self, layer: QuantizedLayer, weights: Weights) -> None:
        self._layer = layer
        self._zero_point = layer.input_parameters[0].zero_point
        self._channel_axis = -1 if layer.kind == "linear" else 1
        self._bias: torch.Tensor | None = None
        largest_bias = 0.0
        if weights.bias is not None:
            scale = weights.scales.double() * layer.input_parameters[0].scale
            self._bias = torch.round(weights.bias.double() / scale)  # (K,), integers
            largest_bias = float(self._bias.abs().max()) if self._bias.numel() else 0.0
        self._is_one_sum = _largest_sum(weights.weight) + largest_bias < _EXACT_IN_FLOAT32
        self._parts = [weights.weight] if self._is_one_sum else _split(layer, weights.weight)
        self._dtype = _sum_dtype(self._parts)
        if weights.weight.numel() <= _KEPT_ELEMENTS:
            self._parts = [part.to(self._dtype) for part in self._parts]
        if self._bias is not None and self._is_one_sum:
            self._bias = self._bias.float()

    def accumulate(self, value: torch.Tensor) -> torch.Tensor:
        """Return the accumulators as float32, rounded once where an integer is larger than it can hold."""
        shifted = value.to(torch.float32).sub_(self._zero_point)  # integers of at most 9 bits
        if self._layer.padding is not None:
            shifted = functional.pad(shifted, self._layer.padding.args[1])  # type: ignore[arg-type]
        if self._is_one_sum:
            return self._operation(shifted, self._parts[0], self._bias)
        sizes = [part.shape[1] for part in self._parts]
        chunks = [shifted] if len(self._parts) == 1 else torch.split(shifted, sizes, dim=self._channel_axis)
        total = torch.zeros((), dtype=torch.float64)
        for chunk, part in zip(chunks, self._parts, strict=True):
            total = total + self._operation(chunk.to(self._dtype), part, None).double()
        if self._bias is not None:
            total += _per_channel(self._layer, self._bias)
        return total.to(torch.float32)

    def _operation(
        self, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        weight = weight.to(self._dtype)
        if self._layer.kind == "linear":
            return functional.linear(value, weight, bias)
        assert callable(self._layer.compute.target)
        result: torch.Tensor = self._layer.compute.target(value, weight, bias, *self._layer.compute.args[3:])
        return result


def _largest_sum(weight: torch.Tensor) -> float:
    """Return what no sum of products with a weight, (K, ...), exceeds."""
    return float(weight.float().abs().flatten(1).sum(1).max()) * _LARGEST_ACTIVATION


def _split(layer: QuantizedLayer, weight: torch.Tensor) -> list[torch.Tensor]:
    """Return parts of a weight over its input channels whose sums float32 holds, where it can be split."""
    source = layer.compute.args[0]
    assert isinstance(source, torch.fx.Node)
    channels = source.meta["val"].shape[-1 if layer.kind == "linear" else 1]
    if channels != weight.shape[1]:
        return [weight]
    size = weight.shape[1]
    while size > 1 and not all(
        _largest_sum(part) < _EXACT_IN_FLOAT32 for part in torch.split(weight, size, dim=1)
    ):
        size = (size + 1) // 2
    return list(torch.split(weight, size, dim=1))


def _sum_dtype(parts: Sequence[torch.Tensor]) -> torch.dtype:
    fits = all(_largest_sum(part) < _EXACT_IN_FLOAT32 for part in parts)
    return torch.float32 if fits else torch.float64


def _per_channel(layer: QuantizedLayer, value: torch.Tensor) -> torch.Tensor:
    if layer.kind == "linear":
        return value
    spatial = layer.compute.meta["val"].dim() - 2
    return value.reshape(1, -1, *[1] * spatial)
