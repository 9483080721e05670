"""Resampling that XNNPACK lacks, as products with a matrix along the height and one along the width.

Interpolation and averages over windows are linear, and each axis is resampled for itself. The matrix of an
axis is what the operator makes of the unit vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.passes.canonicalize_views import fixed_sizes

aten = torch.ops.aten


def resampled(editor: ProgramEditor, node: Node) -> Node | None:
    """Resampling of pictures from any size to any other.

    Before: x (N, C, H, W) -> upsample_bicubic2d -> (N, C, K, L)
    After:  x -> linear(weight (L, W)) -> permute -> linear(weight (K, H)) -> permute
    """
    source = operand(node)
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    if sizes is None or result is None or len(sizes) != 4 or node.meta["val"].dtype != torch.float32:
        return None
    value = source
    for axis in (3, 2):
        matrix = _matrix(node, axis, sizes[axis], result[axis])
        if torch.equal(matrix, torch.eye(sizes[axis])):
            continue
        weight = editor.add_constant(f"{node.name}_along_{axis}", matrix)
        value = value if axis == 3 else _turned(editor, node, value)
        value = editor.insert(node, aten.linear.default, value, weight)
        value = value if axis == 3 else _turned(editor, node, value)
    return value


def _turned(editor: ProgramEditor, node: Node, value: Node) -> Node:
    return editor.insert(node, aten.permute.default, value, [0, 1, 3, 2])


def _matrix(node: Node, axis: int, before: int, after: int) -> torch.Tensor:
    """Return the weights of each of the inputs of an axis in each of its outputs, (after, before)."""
    operator: Any = node.target
    names = [argument.name for argument in operator._schema.arguments]
    given = dict(zip(names[1:], node.args[1:], strict=False)) | dict(node.kwargs)
    # The unit vectors stand in the height, one a channel. The width, resampled to itself, is not 1: for that
    # torch's kernels with antialiasing give the first output for all.
    units = torch.eye(before).reshape(1, before, before, 1).expand(1, before, before, 2).contiguous()
    if given.get("output_size") is not None:
        given["output_size"] = [after, 2]
    if given.get("scale_factors") is not None:
        given["scale_factors"] = [given["scale_factors"][axis - 2], 1.0]
    resampled_units: torch.Tensor = operator(units, **given)
    return resampled_units[0, :, :, 0].T.contiguous()
