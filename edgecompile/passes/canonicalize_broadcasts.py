"""Remove copies that only line up shapes; express what engines lack: other copies, stacks and `addcmul`."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name, same_shape, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten
_EXPANDS = (aten.expand.default, aten.expand_as.default)
_REPEATS = (aten.repeat.default, aten.repeat_interleave.self_int)
_BROADCASTING = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


class CanonicalizeBroadcasts:
    """Rewrite what says in so many words what the operator after it does by itself.

    Before: `gate (N, C, 1, 1) -> expand_as(x (N, C, H, W)) -> mul(x, .)`
    After:  `gate (N, C, 1, 1) -> mul(x, .)`

    Before: `expand_as(x, other)`, elsewhere
    After:  `expand(x, sizes)`

    Before: `stack([a (N, C), b (N, C)], 1) -> (N, 2, C)`
    After:  `cat([a.view(N, 1, C), b.view(N, 1, C)], 1)`

    Before: `repeat(x (N, C), [1, 2])`, `repeat_interleave(x (N, C), 2, 1)`
    After:  `x -> view (N, 1, C) -> expand (N, 2, C) -> view (N, 2C)`, and `(N, C, 1) -> (N, C, 2)`

    Before: `addcmul(a, b, c, value=v)`
    After:  `add(a, mul(mul(b, c), v))`

    Before: `mul(x (N, C), scale ())`
    After:  `mul(x, scale (1,))`

    Declines when more than one size of a stack's result is dynamic: a view can infer one only. Copies of a
    value with more than one stay as they are.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without needless copies."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_REPEATS):
            _expand(editor, node)
        for node in editor.calls(*_EXPANDS):
            _shorten(editor, node)
        for node in editor.calls(aten.addcmul.default):
            _separate(editor, node)
        for node in editor.calls(*_BROADCASTING):
            _give_axes(editor, node)
        for node in editor.calls(aten.stack.default):
            if static_sizes(node) is None:
                reason = Reason(
                    "more than one size of its result is dynamic", change="fix all sizes but the batch"
                )
                declined.append(decline(node, reason, what=operator_name(node)))
            else:
                _concatenate(editor, node)
        return outcome(editor, declined)


def _give_axes(editor: ProgramEditor, node: Node) -> None:
    """Give a constant without axes one, where the other operand has some: ExecuTorch lowers none without."""
    if not shape_of(node):
        return
    for index, item in enumerate(node.args):
        constant = editor.constant(item)
        if constant is not None and constant.dim() == 0 and constant.dtype == node.meta["val"].dtype:
            scalar = editor.add_constant(f"{node.name}_scalar", constant.reshape(1))
            node.update_arg(index, scalar)
            editor.rewrites += 1


def _shorten(editor: ProgramEditor, node: Node) -> None:
    source = operand(node)
    for user in list(node.users):
        if _broadcasts(user, node):
            user.replace_input_with(node, source)
            editor.rewrites += 1
    if not node.users:
        editor.graph.erase_node(node)
    elif node.target is aten.expand_as.default:
        sizes = _kept_or_static(node, source)
        if sizes is not None:
            editor.replace(node, editor.insert(node, aten.expand.default, source, sizes))


def _kept_or_static(node: Node, source: Node) -> list[int] | None:
    """Return the sizes of an expand, -1 for a dynamic one that stays; None where one becomes dynamic."""
    new = [None] * (len(shape_of(node)) - len(shape_of(source)))
    pairs = list(zip(shape_of(node), [*new, *shape_of(source)], strict=True))
    if any(
        isinstance(after, torch.SymInt) and not isinstance(before, torch.SymInt) for after, before in pairs
    ):
        return None
    return [-1 if isinstance(after, torch.SymInt) else after for after, _ in pairs]


def _expand(editor: ProgramEditor, node: Node) -> None:
    """Rewrite copies as an axis of one, which is expanded, beside each axis that is copied."""
    source = operand(node)
    own, result = static_sizes(source), static_sizes(node)
    given: Any = [*node.args[1:], node.kwargs.get("dim")]
    if own is None or result is None or 0 in result:
        return
    if node.target is aten.repeat.default:
        sizes = [*[1] * (len(result) - len(own)), *own]
        copies, beside = list(given[0]), 0
    elif isinstance(given[1], int) and isinstance(given[0], int):
        sizes, copies, beside = own, [1] * len(own), 1
        copies[given[1]] = given[0]
    else:
        return
    apart: list[int] = []
    expanded: list[int] = []
    for size, count in zip(sizes, copies, strict=True):
        if 1 in (size, count):
            apart.append(size)
            expanded.append(size * count)
        else:
            apart += [1, size] if beside == 0 else [size, 1]
            expanded += [count, size] if beside == 0 else [size, count]
    if apart != own:
        source = insert_view(editor, node, source, apart)
    copied = editor.insert(node, aten.expand.default, source, expanded)
    editor.replace(node, copied if expanded == result else insert_view(editor, node, copied, result))


def _broadcasts(user: Node, node: Node) -> bool:
    """Tell whether an operator has another operand of the expanded shape already."""
    if user.target not in _BROADCASTING or len(user.args) != 2:
        return False
    others = [item for item in user.args if isinstance(item, Node) and item is not node]
    return len(others) == 1 and same_shape(others[0], user)


def _separate(editor: ProgramEditor, node: Node) -> None:
    product = editor.insert(node, aten.mul.Tensor, node.args[1], node.args[2])
    value = node.kwargs.get("value", 1)
    if value != 1:
        product = editor.insert(node, aten.mul.Tensor, product, value)
    editor.replace(node, editor.insert(node, aten.add.Tensor, node.args[0], product))


def _concatenate(editor: ProgramEditor, node: Node) -> None:
    parts, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
    sizes = static_sizes(node)
    assert isinstance(parts, list | tuple)
    assert isinstance(axis, int)
    assert sizes is not None
    axis %= len(sizes)
    shape = [*sizes[:axis], 1, *sizes[axis + 1 :]]
    views = [insert_view(editor, node, part, shape) for part in parts if isinstance(part, Node)]
    editor.replace(node, editor.insert(node, aten.cat.default, views, axis))
