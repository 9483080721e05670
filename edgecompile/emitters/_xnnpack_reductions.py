"""Sums and means over any axes in forms that XNNPACK has: it computes means over height and width alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, reads_first_alone, shape_of
from edgecompile.passes.canonicalize_views import are_fixed, fixed_sizes, insert_view

aten = torch.ops.aten

# As a matrix product, a mean stores a row of this many weights, all the same; longer ones take a pooling.
_LONGEST_ROW = 4096
# A sum of so few is made of slices.
_FEW = 4


def mean(editor: ProgramEditor, node: Node) -> Node | None:
    """A mean over other axes than height and width, or one that drops them."""
    source, axes = operand(node), _axes(node)
    if node.kwargs.get("dtype") or (
        len(shape_of(source)) == 4 and axes == [2, 3] and node.args[2:] == (True,)
    ):
        return None
    if axes == [0]:
        result = _sum_of_slices(editor, node, source, 0)
        share = result and editor.insert(node, aten.mul.Tensor, result, 1 / _count(source, axes))
        return _shaped(editor, node, share)
    return _shaped(editor, node, insert_mean(editor, node, source, axes))


def total(editor: ProgramEditor, node: Node) -> Node | None:
    """A sum: of few slices, or the mean times their number."""
    source, axes = operand(node), _axes(node)
    if node.kwargs.get("dtype") or fixed_sizes(source) is None or source.meta["val"].dtype != torch.float32:
        return None
    result = _sum_of_slices(editor, node, source, axes[0]) if len(axes) == 1 else None
    return _shaped(editor, node, result or _insert_sum(editor, node, source, axes))


def _sum_of_slices(editor: ProgramEditor, node: Node, source: Node, axis: int) -> Node | None:
    """Insert the sum along an axis of few values, which stays with size 1."""
    sizes = fixed_sizes(source)
    if sizes is None or not 1 < sizes[axis] <= _FEW or source.meta["val"].dtype != torch.float32:
        return None
    parts = [
        editor.insert(node, aten.slice.Tensor, source, axis, index, index + 1) for index in range(sizes[axis])
    ]
    result = parts[0]
    for part in parts[1:]:
        result = editor.insert(node, aten.add.Tensor, result, part)
    return result


def vector_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute sqrt(sum(x^2)), the norm of order 2."""
    order = node.args[1] if len(node.args) > 1 else 2
    if order != 2 or node.kwargs.get("dtype") or len(node.args) < 3 or node.args[2] is None:
        return None
    axes = _axes(node, 2)
    square = editor.insert(node, aten.mul.Tensor, operand(node), operand(node))
    result = _insert_sum(editor, node, square, axes)
    return _shaped(editor, node, result and editor.insert(node, aten.sqrt.default, result))


def variance(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute mean((x - mean)^2) with Bessel's correction."""
    source, axes = operand(node), _axes(node)
    is_correction = node.target is aten.var.correction
    correction: Any = node.kwargs.get("correction") if is_correction else 0
    if node.target is aten.var.dim:
        correction = int(cast("bool", node.args[2])) if len(node.args) > 2 else 1
    average = insert_mean(editor, node, source, axes)
    if average is None:
        return None
    centred = editor.insert(node, aten.sub.Tensor, source, average)
    square = editor.insert(node, aten.mul.Tensor, centred, centred)
    result = insert_mean(editor, node, square, axes)
    count = _count(source, axes)
    correction = 1 if correction is None else correction
    if result is not None and correction:
        result = editor.insert(node, aten.mul.Tensor, result, count / (count - correction))
    return _shaped(editor, node, result)


def insert_mean(editor: ProgramEditor, before: Node, source: Node, axes: Sequence[int]) -> Node | None:
    """Insert the mean over some axes, which stay with size 1; None where only ExecuTorch can compute it.

    Over the last axes it is a product with a row of 1 / length, over the channels of a picture a 1x1
    convolution; other axes are moved to the end first.
    """
    sizes = fixed_sizes(source)
    rank = len(shape_of(source))
    reduced = sorted(axis % rank for axis in axes)
    if sizes is None or 0 in reduced or not reduced or source.meta["val"].dtype != torch.float32:
        return None
    if rank == 4 and reduced == [2, 3]:
        return editor.insert(before, aten.mean.dim, source, [2, 3], True)
    if rank == 4 and reduced == [1]:
        return _over_channels(editor, before, source, sizes[1])
    source, outer, length = _moved_last(editor, before, source, reduced)
    result = _over_rows(editor, before, source, outer, length)
    shape = [1 if axis in reduced else size for axis, size in enumerate(sizes)]
    return insert_view(editor, before, result, shape)


def largest(editor: ProgramEditor, node: Node) -> Node | None:
    """The largest over some axes as max pooling of a window of their length."""
    source, result, axes = operand(node), fixed_sizes(node), _axes(node)
    if not are_fixed(source) or result is None or node.meta["val"].dtype != torch.float32 or 0 in axes:
        return None
    source, outer, length = _moved_last(editor, node, source, axes)
    picture = insert_view(editor, node, source, [outer[0], 1, math.prod(outer[1:]), length])
    pooled = editor.insert(node, aten.max_pool2d.default, picture, [1, length], [1, length])
    return insert_view(editor, node, pooled, result)


def largest_alone(editor: ProgramEditor, node: Node) -> None:
    """The largest along an axis, of which nobody asks where it is."""
    if not reads_first_alone(node):
        return
    values = editor.insert(node, aten.amax.default, operand(node), [node.args[1]], *node.args[2:])
    found = largest(editor, values) or values
    for user in list(node.users):
        user.replace_all_uses_with(found)
        editor.graph.erase_node(user)
    editor.rewrites += 1
    if not values.users:
        editor.graph.erase_node(values)


def log_softmax(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute x - m - log(sum(exp(x - m))), where m is the largest: exp is at most 1."""
    source, axis = operand(node), cast("int", node.args[1])
    top = editor.insert(node, aten.amax.default, source, [axis], True)
    largest_value = largest(editor, top)
    if largest_value is None or node.args[2:] or node.kwargs.get("dtype"):
        return None
    shifted = editor.insert(node, aten.sub.Tensor, source, largest_value)
    powers = editor.insert(node, aten.exp.default, shifted)
    total_power = _insert_sum(editor, node, powers, [axis % len(shape_of(source))])
    if total_power is None:
        return None
    return editor.insert(node, aten.sub.Tensor, shifted, editor.insert(node, aten.log.default, total_power))


def _moved_last(
    editor: ProgramEditor, before: Node, source: Node, axes: Sequence[int]
) -> tuple[Node, list[int], int]:
    """Move axes to the end; return the value, the sizes of the others, and how many values they hold."""
    sizes = fixed_sizes(source)
    assert sizes is not None
    kept = [axis for axis in range(len(sizes)) if axis not in axes]
    if [*kept, *axes] != list(range(len(sizes))):
        source = editor.insert(before, aten.permute.default, source, [*kept, *axes])
    return source, [sizes[axis] for axis in kept], math.prod(sizes[axis] for axis in axes)


def _over_channels(editor: ProgramEditor, before: Node, source: Node, channels: int) -> Node:
    return editor.insert(before, aten.conv2d.default, source, _row(editor, channels, [1, 1]))


def _over_rows(editor: ProgramEditor, before: Node, source: Node, outer: list[int], length: int) -> Node:
    """Insert the mean over the last axes, (*outer, length) in all; it has the shape (*outer, 1) or alike."""
    if length <= _LONGEST_ROW:
        rows = insert_view(editor, before, source, [*outer, length])
        return editor.insert(before, aten.linear.default, rows, _row(editor, length, []))
    height = next(size for size in range(math.isqrt(length), 0, -1) if length % size == 0)
    shape = [outer[0], math.prod(outer[1:]), height, length // height]
    picture = insert_view(editor, before, source, shape)
    return editor.insert(before, aten.mean.dim, picture, [2, 3], True)


def _row(editor: ProgramEditor, length: int, kernel: list[int]) -> Node:
    """Return a weight of 1 / length, (1, length, *kernel): one for all means over so many."""
    name = "_".join(map(str, ["mean_of", length, *kernel]))
    for node in editor.graph.find_nodes(op="placeholder"):
        if node.name == name and editor.constant(node) is not None:
            return node  # type: ignore[no-any-return]
    return editor.add_constant(name, torch.full((1, length, *kernel), 1 / length))


def _insert_sum(editor: ProgramEditor, node: Node, source: Node, axes: list[int]) -> Node | None:
    average = insert_mean(editor, node, source, axes)
    return average and editor.insert(node, aten.mul.Tensor, average, float(_count(source, axes)))


def _count(source: Node, axes: list[int]) -> int:
    return math.prod(int(shape_of(source)[axis]) for axis in axes)


def _axes(node: Node, position: int = 1) -> list[int]:
    """Return the axes that a reduction is over, from 0 up, in order."""
    rank = len(shape_of(operand(node)))
    given: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    axes = range(rank) if given is None or given == [] else [given] if isinstance(given, int) else given
    return sorted(axis % rank for axis in axes)


def _shaped(editor: ProgramEditor, node: Node, result: Node | None) -> Node | None:
    """Return a reduction that kept its axes in the shape of the node."""
    sizes = fixed_sizes(node)
    if result is None or sizes is None:
        return None
    return result if len(shape_of(result)) == len(sizes) else insert_view(editor, node, result, sizes)
