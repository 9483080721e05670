"""What a layer reads and should give, as rows of numbers: one row for a position of its output."""

from __future__ import annotations

import torch
from torch.nn import functional

from edgecompile.layer_rows import rows_read
from edgecompile.quantize.layers import QuantizedLayer
from edgecompile.quantize.reference import dequantize_tensor

# Positions of a sample's output that are used, drawn at random: neighbours say much the same.
_POSITIONS = 400


def layer_positions(
    layer: QuantizedLayer, value: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer reads at some positions of its output, and what it should give there.

    Returns:
        (positions, groups, length) and (positions, K), real values.
    """
    assert layer.weights is not None
    real = dequantize_tensor(value, layer.input_parameters[0])
    if layer.padding is not None:
        real = functional.pad(real, layer.padding.args[1])  # type: ignore[arg-type]
    read = rows_read(layer.compute, real, tuple(layer.weights.weight.shape[2:]))
    assert read is not None
    if layer.kind == "linear":
        given = wanted.reshape(-1, wanted.shape[-1])
    else:
        given = wanted.flatten(2).movedim(1, 2).flatten(0, 1)
    kept = _drawn(len(read), generator)
    return read[kept], given[kept]


def _drawn(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(count, generator=generator)[:_POSITIONS]
