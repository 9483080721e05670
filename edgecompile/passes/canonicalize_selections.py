"""Express split, chunk, unbind and select as slices, the one selection that every engine has."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from itertools import accumulate
from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name, reads_first_alone, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten
_SPLITS = (
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.split.sizes,
    aten.chunk.default,
    aten.unbind.int,
)
_DYNAMIC = Reason("more than one size of its result is dynamic", change="fix all sizes but the batch")


class CanonicalizeSelections:
    """Rewrite what takes a part of a tensor along one axis.

    Before: `x (N, 3C, H, W) -> chunk(3, 1) -> [0], [1], [2]`
    After:  `x -> slice(1, 0, C)`, `x -> slice(1, C, 2C)`, `x -> slice(1, 2C, 3C)`

    Before: `x (3, N, C) -> unbind(0) -> [1] -> (N, C)`, or `x -> select(0, 1) -> (N, C)`
    After:  `x -> slice(0, 1, 2) -> view (N, C)`

    Before: `x (N, 8, C) -> slice_scatter(y (N, 3, C), 1, 2, 5)`, what `x[:, 2:5] = y` is captured as
    After:  `cat(x -> slice(1, 0, 2), y, x -> slice(1, 5, 8))`

    Before: `x (N, L) -> index([rows 0 to N - 1 (N, 1, 1), columns 0 to L - 1 (1, 1, L)])`, all in order
    After:  `x -> view (N, 1, L)`

    Before: `index_select(x (N, L), 1, [2, 3, 4])`
    After:  `x -> slice(1, 2, 5)`

    Before: `embedding_bag(weight, words (N * L), offsets [0, L, 2L, ...], mode mean) -> [0]`
    After:  `mean(embedding(weight, words -> view (N, L)), 1)`

    Declines when the size along the axis is dynamic, when more than one size of the result is, when the parts
    are returned as they are, or when every few values are assigned to.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with slices only."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_SPLITS, aten.select.int):
            reason = _why_not(node)
            if reason is None and node.target is aten.select.int:
                _replace_select(editor, node)
            elif reason is None:
                _replace_split(editor, node)
            else:
                declined.append(decline(node, reason, what=operator_name(node)))
        for node in editor.calls(aten.slice_scatter.default, aten.select_scatter.default):
            reason = _replace_scatter(editor, node)
            if reason is not None:
                declined.append(decline(node, reason, what=operator_name(node)))
        for node in editor.calls(aten.index_select.default):
            _replace_index_select(editor, node)
        for node in editor.calls(aten.embedding_bag.padding_idx):
            _replace_bag(editor, node)
        for node in editor.calls(aten.index.Tensor):
            if _picks_all_in_order(editor, node):
                editor.replace(
                    node, insert_view(editor, node, operand(node), cast("list[int]", list(shape_of(node))))
                )
        editor.graph.eliminate_dead_code()
        return outcome(editor, declined)


def _replace_index_select(editor: ProgramEditor, node: Node) -> None:
    """Replace a choice of constant places by a slice, or by the indexing that engines know."""
    source, axis, places = operand(node), cast("int", node.args[1]), editor.constant(node.args[2])
    axis %= len(shape_of(source))
    size = shape_of(source)[axis]
    if places is None or places.dim() != 1 or places.numel() == 0 or not isinstance(size, int):
        return
    start, end = int(places[0]), int(places[-1]) + 1
    is_whole = (start, end) == (0, size)  # an output must not be an input
    if start >= 0 and not is_whole and bool((places.diff() == 1).all()):
        editor.replace(node, _slice(editor, node, source, axis, (start, end)))
    else:
        indices = [*[None] * axis, node.args[2]]
        editor.replace(node, editor.insert(node, aten.index.Tensor, source, indices))


_POOLED = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default)  # by an embedding bag's mode


def _replace_bag(editor: ProgramEditor, node: Node) -> None:
    """Replace the pooled embeddings of bags of one size by what they are."""
    weight, words, places, _, mode, _, factors, has_end, padding = node.args
    offsets, sizes = editor.constant(places), shape_of(operand(node, 1))
    is_plain = factors is None and not has_end and padding is None and reads_first_alone(node)
    if offsets is None or not is_plain or len(sizes) != 1 or not isinstance(sizes[0], int):
        return
    bags = offsets.numel()
    length, rest = divmod(sizes[0], max(bags, 1))
    if rest or not bags or not torch.equal(offsets, torch.arange(bags) * length):
        return
    rows = insert_view(editor, node, cast("Node", words), [bags, length])
    vectors = editor.insert(node, aten.embedding.default, weight, rows)
    for user in [user for user in node.users if user.users]:
        editor.replace(user, editor.insert(node, _POOLED[cast("int", mode)], vectors, [1]))


def _picks_all_in_order(editor: ProgramEditor, node: Node) -> bool:
    """Tell whether constant places pick each value once, in the order in which they lie."""
    sizes, places = shape_of(operand(node)), cast("list[Node | None]", node.args[1])
    found = [None if place is None else editor.constant(place) for place in places]
    is_known = all(value is not None or place is None for value, place in zip(found, places, strict=True))
    if not is_known or not all(isinstance(size, int) for size in (*sizes, *shape_of(node))):
        return False
    count = math.prod(cast("tuple[int, ...]", sizes))
    picked: torch.Tensor = aten.index.Tensor(torch.arange(count).view(sizes), found)
    return torch.equal(picked.flatten(), torch.arange(count))


def _why_not(node: Node) -> str | None:
    source = operand(node)
    if not isinstance(shape_of(source)[_axis(node)], int):
        return Reason(
            "the size of the axis that it splits is dynamic", change="split an axis of a fixed size"
        )
    if node.target is aten.select.int:
        if not isinstance(node.args[2], int):
            return Reason("what it selects is computed", change="select with a number")
        return None if static_sizes(node) is not None else _DYNAMIC
    if any(user.target is not operator.getitem for user in node.users):
        return Reason("its parts are not read one by one", change="unpack what it returns")
    if node.target is aten.unbind.int and any(static_sizes(user) is None for user in node.users):
        return _DYNAMIC
    return None


def _axis(node: Node) -> int:
    """Return the axis, from 0 up."""
    rank = len(shape_of(operand(node)))
    position = 1 if node.target in (aten.unbind.int, aten.select.int) else 2
    axis = node.args[position] if len(node.args) > position else node.kwargs.get("dim", 0)
    return cast("int", axis) % max(rank, 1)


def _replace_select(editor: ProgramEditor, node: Node) -> None:
    source, axis = operand(node), _axis(node)
    index = cast("int", node.args[2]) % cast("int", shape_of(source)[axis])
    editor.replace(node, _without_axis(editor, node, axis, index))


def _replace_split(editor: ProgramEditor, node: Node) -> None:
    axis, drops_axis = _axis(node), node.target is aten.unbind.int
    bounds = list(_bounds(node))
    for user in list(node.users):
        start, stop = bounds[cast("int", user.args[1])]
        if not user.users:
            editor.graph.erase_node(user)
        elif drops_axis:
            editor.replace(user, _without_axis(editor, user, axis, start, operand(node)))
        else:
            editor.replace(user, _slice(editor, user, operand(node), axis, (start, stop)))
    editor.graph.erase_node(node)


def _replace_scatter(editor: ProgramEditor, node: Node) -> str | None:
    """Replace an assignment to a range by what stands before it, what is assigned, and what comes after."""
    source, value, sizes = operand(node), operand(node, 1), static_sizes(operand(node))
    axis = cast("int", node.args[2] if len(node.args) > 2 else 0) % max(len(shape_of(node)), 1)
    if sizes is None or sizes[axis] < 0:
        return Reason("a size that it assigns to is dynamic", change="fix all sizes but the batch")
    size, given = sizes[axis], cast("tuple[int, ...]", node.args[3:])
    if node.target is aten.select_scatter.default:
        start = given[0] % size
        end, step = start + 1, 1
        value = insert_view(editor, node, value, [*sizes[:axis], 1, *sizes[axis + 1 :]])
    else:
        start, end, step = slice(*(*given, None, None, None)[:3]).indices(size)
    if step != 1:
        return Reason("it assigns to every few values", change="assign to a whole range")
    before = [_slice(editor, node, source, axis, (0, start))] if start else []
    after = [_slice(editor, node, source, axis, (end, size))] if end < size else []
    parts = [*before, value, *after]
    editor.replace(node, editor.insert(node, aten.cat.default, parts, axis) if len(parts) > 1 else value)
    return None


def _bounds(node: Node) -> Iterator[tuple[int, int]]:
    """Yield where each part begins and ends along the axis."""
    sizes = [1 if node.target is aten.unbind.int else item.shape[_axis(node)] for item in node.meta["val"]]
    ends = accumulate(sizes)
    return ((end - size, end) for size, end in zip(sizes, ends, strict=True))


def _slice(editor: ProgramEditor, before: Node, source: Node, axis: int, bounds: tuple[int, int]) -> Node:
    if bounds == (0, shape_of(source)[axis]):
        return source
    return editor.insert(before, aten.slice.Tensor, source, axis, *bounds)


def _without_axis(
    editor: ProgramEditor, node: Node, axis: int, index: int, source: Node | None = None
) -> Node:
    """Insert the slice of one index along an axis, and the view that drops the axis."""
    sizes = static_sizes(node)
    assert sizes is not None
    part = _slice(editor, node, source or operand(node), axis, (index, index + 1))
    return insert_view(editor, node, part, sizes)
