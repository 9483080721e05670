"""Express cyclic shifts, and padding with what is inside, as slices and concatenations."""

from __future__ import annotations

from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import fixed_sizes
from edgecompile.program import Reason

aten = torch.ops.aten

# Each row or column of a margin is an input of a concatenation.
_WIDEST_MARGIN = 16
_Parts = list[tuple[int, int]]
_DYNAMIC = Reason("a size that it depends on is dynamic", change="fix all sizes but the batch")


class ConcatenateEnds:
    """Rewrite what takes values from the other end, or from inside: every engine moves slices as integers.

    Before: `roll(x (N, C, H, W), [1], [2])`
    After:  `cat([x[:, :, H - 1 :], x[:, :, : H - 1]], 2)`

    Before: `pad(x (N, C, H, W), (1, 2), "reflect")`
    After:  `cat([x[..., 1:2], x, x[..., -2:-1], x[..., -3:-2]], 3)`

    Before: `pad(x (N, C, H, W), (1, 1), "replicate")`, `(1, 1), "circular"`
    After:  `cat([x[..., :1], x, x[..., -1:]], 3)`, `cat([x[..., -1:], x, x[..., :1]], 3)`

    Declines when another size than the batch is dynamic, when a margin is wider than 16, and when a shift is
    of all values as if they lay in one row.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without cyclic shifts, and with padding by constants alone."""
        return rewrite_calls(program, {aten.roll.default: _rolled, aten.pad.default: _padded})


def _rolled(editor: ProgramEditor, node: Node) -> Node | str | None:
    shifts, axes = (cast("list[int]", item) for item in (*node.args[1:], [])[:2])
    source = operand(node)
    if not axes:
        return Reason("it shifts all values as if they lay in one row", change="name the axes that it shifts")
    if fixed_sizes(source) is None or not all(isinstance(shape_of(source)[axis], int) for axis in axes):
        return _DYNAMIC
    for axis, shift in zip(axes, shifts, strict=True):
        size = cast("int", shape_of(source)[axis])
        cut = -shift % size if size else 0
        if cut:
            ends = [_slice(editor, node, source, axis, part) for part in ((cut, size), (0, cut))]
            source = editor.insert(node, aten.cat.default, ends, axis % len(shape_of(node)))
    return None if source is operand(node) else source


def _padded(editor: ProgramEditor, node: Node) -> Node | str | None:
    mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
    source, margins = operand(node), cast("list[int]", node.args[1])
    if not isinstance(mode, str) or mode not in _TAKEN:
        return None
    if fixed_sizes(source) is None or not all(isinstance(margin, int) for margin in margins):
        return _DYNAMIC
    if min(margins) < 0 or max(margins) > _WIDEST_MARGIN:
        return Reason(
            f"a margin is wider than {_WIDEST_MARGIN}, or crops", change="pad with a narrower margin"
        )
    for place in range(0, len(margins), 2):
        near, far = margins[place : place + 2]
        axis = len(shape_of(source)) - 1 - place // 2
        size = cast("int", shape_of(source)[axis])  # never the batch
        before, after = _TAKEN[mode](size, near, far)
        if before or after:
            parts = [_slice(editor, node, source, axis, part) for part in (*before, *after)]
            parts.insert(len(before), source)
            source = editor.insert(node, aten.cat.default, parts, axis)
    return None if source is operand(node) else source


def _slice(editor: ProgramEditor, node: Node, source: Node, axis: int, part: tuple[int, int]) -> Node:
    return editor.insert(node, aten.slice.Tensor, source, axis, *part)


def _reflected(size: int, near: int, far: int) -> tuple[_Parts, _Parts]:
    before = [(at, at + 1) for at in range(near, 0, -1)]
    return before, [(at, at + 1) for at in range(size - 2, size - 2 - far, -1)]


def _replicated(size: int, near: int, far: int) -> tuple[_Parts, _Parts]:
    return [(0, 1)] * near, [(size - 1, size)] * far


def _wrapped(size: int, near: int, far: int) -> tuple[_Parts, _Parts]:
    return [(size - near, size)][:near], [(0, far)][:far]


# The parts of an axis that padding puts before and after it, by its mode: where each starts and ends.
_TAKEN = {"reflect": _reflected, "replicate": _replicated, "circular": _wrapped}
