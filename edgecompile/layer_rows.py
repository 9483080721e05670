"""What a layer reads as rows of numbers, one for each position, and its weight as what multiplies them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

aten = torch.ops.aten

CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
LINEAR = aten.linear.default


def groups_of(node: Node) -> int:
    """Return the groups of a convolution or transposed convolution; 1 for a linear layer."""
    if node.target is LINEAR:
        return 1
    place = 6  # after output_padding in the one, after dilation in the other
    groups = node.args[place] if len(node.args) > place else node.kwargs.get("groups", 1)
    assert isinstance(groups, int)
    return groups


def rows_read(node: Node, value: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor | None:
    """Return what a layer's weight is multiplied with.

    A transposed convolution multiplies each position of its input with all taps.

    Args:
        node: A convolution, transposed convolution or linear layer.
        value: What it reads, (N, C, ...), or (..., C) for a linear layer.
        kernel: The sizes of its taps; none for a linear layer.

    Returns:
        (positions, groups, length), or None for a three-dimensional kernel, which `unfold` does not know.
    """
    groups = groups_of(node)
    if node.target is LINEAR:
        return value.reshape(-1, 1, value.shape[-1])
    if node.target in TRANSPOSED:
        columns: torch.Tensor | None = value.flatten(2)  # (N, C, positions)
    else:
        columns = _unfolded(node, value, kernel)
    if columns is None:
        return None
    return columns.movedim(1, 2).reshape(-1, groups, columns.shape[1] // groups)


def _unfolded(node: Node, value: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor | None:
    """Return what a convolution's taps meet, (N, C * taps, positions)."""
    stride, dilation = sizes_of(node, 3, kernel, 1), sizes_of(node, 5, kernel, 1)
    if node.args[4:5] == ("same",):
        ends = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        value = functional.pad(value, [part for end in reversed(ends) for part in (end // 2, end - end // 2)])
        padding = (0,) * len(kernel)
    else:
        padding = (0,) * len(kernel) if node.args[4:5] == ("valid",) else sizes_of(node, 4, kernel, 0)
    if set(kernel) == set(stride) == {1} and set(padding) == {0}:
        return value.flatten(2)
    if len(kernel) > 2:
        return None
    missing = 2 - len(kernel)  # `unfold` knows pictures only
    return functional.unfold(
        value.unsqueeze(2) if missing else value,
        kernel_size=(*[1] * missing, *kernel),
        dilation=(*[1] * missing, *dilation),
        padding=(*[0] * missing, *padding),
        stride=(*[1] * missing, *stride),
    )


def weight_rows(node: Node, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a weight as what multiplies the rows that its layer reads, (groups, outputs, length)."""
    if node.target in TRANSPOSED:
        return weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of_rows(node: Node, rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return the weight, of a shape, whose rows these are, (groups, outputs, length)."""
    return (rows.transpose(1, 2) if node.target in TRANSPOSED else rows).reshape(shape)


def sizes_of(node: Node, place: int, taps: tuple[int, ...], neutral: int) -> tuple[int, ...]:
    """Return an argument of a convolution, one size for each axis."""
    found: Any = node.args[place] if len(node.args) > place else neutral
    sizes = tuple(found) if isinstance(found, list | tuple) else (found,)
    return sizes * len(taps) if len(sizes) == 1 else sizes
