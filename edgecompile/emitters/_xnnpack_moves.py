"""What moves values without computing, as the slices, views and concatenations that XNNPACK has."""

from __future__ import annotations

from typing import cast

import torch
from torch.fx import Node

from edgecompile.emitters._xnnpack_arithmetic import copied, copies_to, expanded
from edgecompile.emitters._xnnpack_resampling import resampled
from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten

# XNNPACK's tensors have at most six axes.
_MOST_AXES = 6
# Each part is an input of a concatenation.
_MOST_PARTS = 16
# A choice of values is stored as a matrix of at most this many.
_LARGEST_CHOICE = 2**18


def strided_slice(editor: ProgramEditor, node: Node) -> Node | None:
    """Every k-th value along an axis: a view that puts k beside each other, and a slice of one of them.

    Before: x (N, 8) -> slice(1, 1, end, step 2) -> (N, 4)
    After:  x -> view (N, 4, 2) -> slice(2, 1, 2) -> view (N, 4)
    """
    source, step = operand(node), node.args[4] if len(node.args) > 4 else 1
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    if step == 1 or not isinstance(step, int) or sizes is None or result is None or len(sizes) >= _MOST_AXES:
        return None
    axis, start = (cast("int", item) for item in node.args[1:3])
    axis %= len(sizes)
    size, count = sizes[axis], result[axis]
    start = min(max(start + size if start < 0 else start, 0), size)
    if axis == 0 or count == 0:
        return None
    first = 0 if start < step else start  # of the groups of k values; the last may reach beyond the end
    missing = first + count * step - size
    if missing > 0:
        if first:
            source = editor.insert(node, aten.slice.Tensor, source, axis, first, size)
        margins = [0, 0] * (len(sizes) - 1 - axis) + [0, missing]
        source = _padded_with_zeros(editor, node, source, margins)
    elif first or missing < 0:
        source = editor.insert(node, aten.slice.Tensor, source, axis, first, first + count * step)
    apart = insert_view(editor, node, source, [*sizes[:axis], count, step, *sizes[axis + 1 :]])
    chosen = editor.insert(node, aten.slice.Tensor, apart, axis + 1, start - first, start - first + 1)
    return insert_view(editor, node, chosen, result)


def _padded_with_zeros(editor: ProgramEditor, node: Node, source: Node, margins: list[int]) -> Node:
    """Insert a padding; that of integers has integers: ExecuTorch would give them out as floats."""
    padded = editor.insert(node, aten.constant_pad_nd.default, source, margins, 0.0)
    if source.target is not DEQUANTIZE:
        return padded
    integers = editor.insert(node, QUANTIZE, padded, *source.args[1:])
    return editor.insert(node, DEQUANTIZE, integers, *source.args[1:])


def flip(editor: ProgramEditor, node: Node) -> Node | None:
    """Slices in reverse order, where they are few."""
    source, axes = operand(node), cast("list[int]", node.args[1])
    for axis in axes:
        size = shape_of(source)[axis]
        if not isinstance(size, int) or size > _MOST_PARTS:
            return None
        parts = [
            editor.insert(node, aten.slice.Tensor, source, axis, at, at + 1) for at in reversed(range(size))
        ]
        source = editor.insert(node, aten.cat.default, parts, axis % len(shape_of(node)))
    return source


def expand(editor: ProgramEditor, node: Node) -> Node | None:
    """Copies along the axes that had one value: a product with ones, which the delegate broadcasts."""
    result = fixed_sizes(node)
    copies = None if result is None else copies_to(operand(node), result)
    if copies is None or node.meta["val"].dtype != torch.float32:
        return None
    value = expanded(editor, node, operand(node), copies)
    # An output must not be an input.
    return copied(editor, node, value, copies) if value is operand(node) else value


def index(editor: ProgramEditor, node: Node) -> Node | None:
    """Values at constant places along an axis: a product with a matrix that has its ones there.

    The values are finite: infinity times the zeros beside it is no number.
    """
    source, places = operand(node), cast("list[Node | None]", node.args[1])
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    axes = [axis for axis, place in enumerate(places) if place is not None]
    chosen = editor.constant(places[axes[0]]) if len(axes) == 1 else None
    if sizes is None or result is None or chosen is None or node.meta["val"].dtype != torch.float32:
        return None
    axis = axes[0]
    if chosen.dim() != 1 or chosen.dtype != torch.int64 or sizes[axis] == -1:
        return None
    if len(chosen) * sizes[axis] > _LARGEST_CHOICE:
        return None
    choice = torch.nn.functional.one_hot(chosen % sizes[axis], sizes[axis]).float()
    weight = editor.add_constant(f"{node.name}_choice", choice)
    order = [*(other for other in range(len(sizes)) if other != axis), axis]
    is_last = axis == len(sizes) - 1
    if not is_last:
        source = editor.insert(node, aten.permute.default, source, order)
    value = editor.insert(node, aten.linear.default, source, weight)
    back = [order.index(other) for other in range(len(sizes))]
    return value if is_last else editor.insert(node, aten.permute.default, value, back)


def nearest(editor: ProgramEditor, node: Node) -> Node | None:
    """Nearest-neighbour upsampling by whole numbers: copies beside each value; by fractions it is resampled.

    Before: x (N, C, H, W) -> upsample_nearest2d -> (N, C, 2H, 2W)
    After:  x -> view (N, C, H, 1, W, 1) -> mul(ones (1, 1, 1, 2, 1, 2)) -> view
    """
    source = operand(node)
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    if sizes is None or result is None:
        return None
    batch, channels, height, width = sizes
    rows, columns = (after // before for before, after in zip((height, width), result[2:], strict=True))
    if [height * rows, width * columns] != result[2:]:
        return resampled(editor, node)
    apart = insert_view(editor, node, source, [batch, channels, height, 1, width, 1])
    return insert_view(editor, node, copied(editor, node, apart, [1, 1, 1, rows, 1, columns]), result)


def repeated(editor: ProgramEditor, node: Node) -> Node | None:
    """A concatenation of one tensor with itself: the delegate wants each part to be another node."""
    parts = list(cast("list[Node]", node.args[0]))
    if len(set(parts)) == len(parts) or node.meta["val"].dtype != torch.float32:
        return None
    for index, part in enumerate(parts):
        if part in parts[:index]:
            parts[index] = editor.insert(node, aten.mul.Tensor, part, 1.0)
    return editor.insert(node, aten.cat.default, parts, *node.args[1:])


def pixel_shuffle(editor: ProgramEditor, node: Node) -> Node | None:
    """Channels become pixels (Shi et al. 2016): a view, a permute and a view."""
    sizes, factor = fixed_sizes(operand(node)), cast("int", node.args[1])
    if sizes is None or len(sizes) != 4:
        return None
    batch, channels, height, width = sizes
    apart = [batch, channels // factor**2, factor, factor, height, width]
    return _regrouped(editor, node, apart, [0, 1, 4, 2, 5, 3])


def pixel_unshuffle(editor: ProgramEditor, node: Node) -> Node | None:
    """Pixels become channels: the reverse of `pixel_shuffle`."""
    sizes, factor = fixed_sizes(operand(node)), cast("int", node.args[1])
    if sizes is None or len(sizes) != 4:
        return None
    batch, channels, height, width = sizes
    apart = [batch, channels, height // factor, factor, width // factor, factor]
    return _regrouped(editor, node, apart, [0, 1, 3, 5, 2, 4])


def _regrouped(editor: ProgramEditor, node: Node, apart: list[int], order: list[int]) -> Node | None:
    """Insert a view of the operand that takes axes apart, a permute, and a view of the node's shape."""
    result = fixed_sizes(node)
    if result is None:
        return None
    value = insert_view(editor, node, operand(node), apart)
    return insert_view(editor, node, editor.insert(node, aten.permute.default, value, order), result)
