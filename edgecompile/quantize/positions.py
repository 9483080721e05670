"""What a layer reads and should give, as rows of numbers: one row for a position of its output."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from edgecompile.quantize.layers import QuantizedLayer
from edgecompile.quantize.reference import dequantize_tensor

# Positions of a sample's output that are used, drawn at random: neighbours say much the same.
_POSITIONS = 400


def groups_of(layer: QuantizedLayer) -> int:
    """Return the groups of a layer's channels; 1 for a linear layer."""
    return int(_argument(layer, 6, 1)) if layer.kind != "linear" else 1


def layer_positions(
    layer: QuantizedLayer, value: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer reads at some positions of its output, and what it should give there.

    Returns:
        (positions, groups, length) and (positions, K), real values.
    """
    real = dequantize_tensor(value, layer.input_parameters[0])
    if layer.kind == "linear":
        read, given = real.reshape(-1, 1, real.shape[-1]), wanted.reshape(-1, wanted.shape[-1])
        kept = _drawn(len(read), generator)
        return read[kept], given[kept]
    assert layer.weights is not None
    if layer.padding is not None:
        real = functional.pad(real, layer.padding.args[1])  # type: ignore[arg-type]
    spatial = real.dim() - 2
    if spatial == 1:  # `unfold` knows pictures only
        real, wanted = real.unsqueeze(2), wanted.unsqueeze(2)
    kernel = (*[1] * (2 - spatial), *layer.weights.weight.shape[2:])
    stride, padding, dilation = (
        (*[neutral] * (2 - spatial), *_argument(layer, index, [neutral] * spatial))
        for index, neutral in ((3, 1), (4, 0), (5, 1))
    )
    if kernel == stride == (1, 1) and padding == (0, 0):
        columns = real.flatten(2)  # (N, C * taps, positions)
    else:
        columns = functional.unfold(real, kernel, dilation, padding, stride)
    groups = groups_of(layer)
    read = columns.movedim(1, 2).reshape(-1, groups, columns.shape[1] // groups)
    given = wanted.flatten(2).movedim(1, 2).flatten(0, 1)
    kept = _drawn(len(read), generator)
    return read[kept], given[kept]


def _argument(layer: QuantizedLayer, index: int, otherwise: Any) -> Any:
    """Return an argument of a convolution, or its default where it is left out."""
    arguments = layer.compute.args
    return arguments[index] if len(arguments) > index else otherwise


def _drawn(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator)[:_POSITIONS]
