"""A dynamically quantized layer in exact integer arithmetic, in the forms that the engines document.

    s, z = parameters of the values that are there
    q = clamp(round(x / s) + z)
    y = float32(sum((q - z) * w)) * (s * s_w) + b             the sum is exact

The engines differ in what shares s and z (XNNPACK: each row has its own; the others: the tensor), and in
how the parameters are rounded:

- ONNX Runtime: DynamicQuantizeLinear of the ONNX specification.
- XNNPACK: `xnn_f32_qd8_asymmetric_quantization_params`; x is multiplied by the float32 reciprocal of s.
- QNNPACK: PyTorch's own operators, which choose the parameters in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.dynamic_layers import DynamicLayer

_Quantized = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class ExactDynamicLayer:
    """A layer that can be computed for any input, in float32 (..., K)."""

    def __init__(self, layer: DynamicLayer) -> None:
        self.layer = layer
        self.sources = (layer.source,)

    def form(self, arithmetic: Arithmetic) -> str:
        """Return a name that two arithmetics share where they compute this layer alike: none do."""
        return arithmetic

    def compute(self, inputs: Sequence[torch.Tensor], arithmetic: Arithmetic) -> torch.Tensor:
        """Return the layer's float32 output (..., N)."""
        weights = self.layer.weights
        steps, scale, zero_point = quantize_at_run_time(inputs[0], arithmetic)
        sums = (steps - zero_point).double() @ weights.weight.double().T  # integers
        output = sums.float() * (scale * weights.scales)
        return output if weights.bias is None else output + weights.bias

    def unit(self, value: torch.Tensor, arithmetic: Arithmetic) -> torch.Tensor:
        """Return the output's difference that one integer more in the sum makes, (..., N) or (N,)."""
        _, scale, _ = quantize_at_run_time(value, arithmetic)
        return scale * self.layer.weights.scales


def quantize_at_run_time(value: torch.Tensor, arithmetic: Arithmetic) -> _Quantized:
    """Return the steps of an activation (..., K), their scale and their zero point, all as floats.

    Scale and zero point have the shape (..., 1) where each row has its own, else ().
    """
    return _QUANTIZE[arithmetic](value.float())


def _onnxruntime(value: torch.Tensor) -> _Quantized:
    low, high = value.amin().clamp_max(0), value.amax().clamp_min(0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    zero_point = (-low / scale).clamp(0, 255).round()
    return (torch.round(value / scale) + zero_point).clamp(0, 255), scale, zero_point


def _qnnpack(value: torch.Tensor) -> _Quantized:
    scale, zero_point = torch._choose_qparams_per_tensor(value, False)
    steps = torch.quantize_per_tensor(value, scale, zero_point, torch.quint8).int_repr()
    return steps.float(), torch.tensor(scale, dtype=torch.float32), torch.tensor(float(zero_point))


def _xnnpack(value: torch.Tensor) -> _Quantized:
    low, high = value.amin(-1, keepdim=True).clamp_max(0), value.amax(-1, keepdim=True).clamp_min(0)
    scale = torch.where(high > low, (high - low) / 255, 1.0)
    at_low, at_high = low / scale, high / scale
    zero_point = torch.where((at_low - 128) + (at_high + 127) > 0, -128 - at_low, 127 - at_high)
    zero_point = zero_point.clamp(-128, 127).round()
    return (torch.round(value * (1 / scale)) + zero_point).clamp(-128, 127), scale, zero_point


_QUANTIZE = {"exact": _onnxruntime, "xnnpack": _xnnpack, "qnnpack": _qnnpack}
