"""Express flatten, squeeze, unsqueeze and reshape as one view, and merge chains of them."""

from __future__ import annotations

from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name, same_shape, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten
_CANONICAL = (aten.view.default, aten.reshape.default)
VIEWS = (
    *_CANONICAL,
    aten._unsafe_view.default,
    aten.reshape_as.default,
    aten.view_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
PERMUTES = (aten.permute.default, aten.transpose.int, aten.t.default)


class CanonicalizeViews:
    """Rewrite everything that only renames the shape to one `view`; merge chains of views and permutes.

    Before: `x (N, C, 1, 1) -> squeeze(-1) -> flatten(1) -> (N, C)`
    After:  `x -> view (N, C)`

    Before: `x -> permute (0, 2, 3, 1) -> transpose(1, 3) -> transpose(2, 3)`
    After:  `x`

    Where the memory layout does not let a view reinterpret it (after a permute), the view is a `reshape`.

    Declines when more than one size of the result is dynamic: a view can infer one only.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with canonical views."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*PERMUTES, *VIEWS):  # a view that goes may bring two permutes together
            if node.target in PERMUTES:
                _rewrite_permute(editor, node)
                continue
            sizes = static_sizes(node)
            if sizes is None:
                reason = Reason(
                    "more than one size of its result is dynamic", change="fix all sizes but the batch"
                )
                declined.append(decline(node, reason, what=operator_name(node)))
                continue
            _rewrite_view(editor, node, sizes)
        editor.graph.eliminate_dead_code()
        return outcome(editor, declined)


def static_sizes(node: Node) -> list[int] | None:
    """Return the sizes for a view to a node's shape, -1 for a dynamic one; None if two are dynamic."""
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in shape_of(node)]
    return sizes if sizes.count(-1) <= 1 else None


def fixed_sizes(node: Node) -> list[int] | None:
    """Return a shape, -1 for a dynamic batch; None where another size is dynamic."""
    sizes = static_sizes(node)
    return None if sizes is None or -1 in sizes[1:] else sizes


def are_fixed(*nodes: Node) -> bool:
    """Tell whether no size but the batch is dynamic."""
    return all(fixed_sizes(node) is not None for node in nodes)


def insert_view(editor: ProgramEditor, before: Node, source: Node, sizes: list[int]) -> Node:
    """Insert a view, or a reshape where the source's memory is not in the order of its axes."""
    operator = aten.view.default if source.meta["val"].is_contiguous() else aten.reshape.default
    return editor.insert(before, operator, source, sizes)


def _rewrite_view(editor: ProgramEditor, node: Node, sizes: list[int]) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    merges = source.target in _CANONICAL
    if merges:
        source = cast("Node", source.args[0])
    if same_shape(source, node) and not _would_return_input(editor, node, source):
        editor.replace(node, source)
        return
    if merges or node.target not in _CANONICAL or list(cast("list[object]", node.args[1])) != sizes:
        editor.replace(node, insert_view(editor, node, source, sizes))


def _rewrite_permute(editor: ProgramEditor, node: Node) -> None:
    source, axes = cast("Node", node.args[0]), _axes(node)
    merges = source.target is aten.permute.default
    if merges:
        inner = _axes(source)
        source, axes = cast("Node", source.args[0]), [inner[axis] for axis in axes]
    if axes == list(range(len(axes))) and not _would_return_input(editor, node, source):
        editor.replace(node, source)
        return
    if merges or node.target is not aten.permute.default or list(cast("list[int]", node.args[1])) != axes:
        editor.replace(node, editor.insert(node, aten.permute.default, source, axes))


def _axes(node: Node) -> list[int]:
    """Return a permutation's axes, from 0 up."""
    rank = len(shape_of(node))
    if node.target is aten.permute.default:
        return [axis % rank for axis in cast("list[int]", node.args[1])]
    axes = list(range(rank))
    first, second = cast("tuple[int, int]", node.args[1:]) if len(node.args) == 3 else (0, -1)
    if rank > 0:
        axes[first], axes[second] = axes[second], axes[first]
    return axes


def _would_return_input(editor: ProgramEditor, node: Node, source: Node) -> bool:
    return editor.is_user_input(source) and node in editor.outputs()
