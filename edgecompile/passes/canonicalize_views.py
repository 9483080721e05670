"""Express flatten, squeeze, unsqueeze and reshape as one view, and merge chains of them."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operator_name, shape_of, source_line
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Declined

aten = torch.ops.aten
_VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)


class CanonicalizeViews:
    """Rewrite everything that only renames the shape to one `view`; merge chains of views and permutes.

    Before: `x (N, C, 1, 1) -> squeeze(-1) -> flatten(1) -> (N, C)`
    After:  `x -> view (N, C)`

    Before: `x -> permute (0, 2, 3, 1) -> permute (0, 3, 1, 2)`
    After:  `x`

    Declines when more than one size of the result is dynamic: a view can infer one only.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with canonical views."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_VIEWS):
            sizes = static_sizes(node)
            if sizes is None:
                what, where = operator_name(node), source_line(node)
                reason = "more than one size of its result is dynamic"
                declined.append(Declined(what=what, where=where, reason=reason))
                continue
            _rewrite_view(editor, node, sizes)
        for node in editor.calls(aten.permute.default):
            _merge_permutes(editor, node)
        editor.graph.eliminate_dead_code()
        return outcome(editor, declined)


def static_sizes(node: Node) -> list[int] | None:
    """Return the sizes for a view to a node's shape, -1 for a dynamic one; None if two are dynamic."""
    sizes = [-1 if isinstance(size, torch.SymInt) else size for size in shape_of(node)]
    return sizes if sizes.count(-1) <= 1 else None


def _rewrite_view(editor: ProgramEditor, node: Node, sizes: list[int]) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    if source.target is aten.view.default:
        source = source.args[0]  # type: ignore[assignment]
    elif node.target is aten.view.default and list(node.args[1]) == sizes:  # type: ignore[arg-type]
        return
    assert isinstance(source, Node)
    if shape_of(source) == shape_of(node) and not editor.is_user_input(source):
        editor.replace(node, source)
        return
    editor.replace(node, editor.insert(node, aten.view.default, source, sizes))


def _merge_permutes(editor: ProgramEditor, node: Node) -> None:
    inner = node.args[0]
    if not isinstance(inner, Node) or inner.target is not aten.permute.default:
        return
    outer_axes, inner_axes = node.args[1], inner.args[1]
    assert isinstance(outer_axes, list | tuple)
    assert isinstance(inner_axes, list | tuple)
    axes = [inner_axes[int(axis)] for axis in outer_axes]  # type: ignore[call-overload]
    source = inner.args[0]
    assert isinstance(source, Node)
    rank = len(axes)
    if [int(axis) % rank for axis in axes] == list(range(rank)) and not editor.is_user_input(source):  # type: ignore[call-overload]
        editor.replace(node, source)
        return
    editor.replace(node, editor.insert(node, aten.permute.default, source, axes))
