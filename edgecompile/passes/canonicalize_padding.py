"""Express padding as `constant_pad_nd`, and fold symmetric zero padding into the convolution."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, source_line
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Declined

aten = torch.ops.aten


class CanonicalizePadding:
    """Rewrite `pad`, and fold what a convolution can do itself.

    Before: `x (N, C, H, W) -> pad(1, 1, 1, 1) -> conv2d(padding 0)`
    After:  `x -> conv2d(padding 1)`

    Before: `pad(x, (0, 1, 0, 1), "constant")`
    After:  `constant_pad_nd(x, (0, 1, 0, 1), 0)`

    Declines when the padding reflects, replicates or wraps around: engines have constant padding only.
    Asymmetric padding stays a node of its own; emitters whose format allows it fold it further.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with canonical padding."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(aten.pad.default):
            mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
            if mode != "constant":
                reason = f"its mode is {mode!r}, and engines have constant padding only"
                declined.append(Declined(what="pad", where=source_line(node), reason=reason))
                continue
            value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
            new = editor.insert(node, aten.constant_pad_nd.default, node.args[0], node.args[1], value or 0.0)
            editor.replace(node, new)
        for node in editor.calls(aten.constant_pad_nd.default):
            _fold_into_convolutions(editor, node)
        return outcome(editor, declined)


def _fold_into_convolutions(editor: ProgramEditor, node: Node) -> None:
    pads = node.args[1]
    value = node.args[2] if len(node.args) > 2 else 0.0
    assert isinstance(pads, list | tuple)
    if value != 0 or len(pads) != 4:
        return
    left, right, top, bottom = (int(pad) for pad in pads)  # type: ignore[call-overload]
    if left != right or top != bottom or min(left, top) < 0:
        return
    if not all(_takes_padding(user, node) for user in node.users):
        return
    for conv in list(node.users):
        padding = _padding(conv)
        defaults = [None, [1, 1], [0, 0]]  # bias, stride, padding
        arguments = [*conv.args, *defaults[len(conv.args) - 2 :]]
        arguments[0] = node.args[0]
        arguments[4] = [padding[0] + top, padding[1] + left]
        conv.args = tuple(arguments)
    editor.graph.erase_node(node)
    editor.rewrites += 1


def _takes_padding(conv: Node, pad: Node) -> bool:
    if conv.target is not aten.conv2d.default or conv.args[0] is not pad or conv.kwargs:
        return False
    return len(conv.args) < 5 or not isinstance(conv.args[4], str)


def _padding(conv: Node) -> tuple[int, int]:
    padding = conv.args[4] if len(conv.args) > 4 else 0
    if isinstance(padding, int):
        return padding, padding
    assert isinstance(padding, list | tuple)
    rows, columns = (padding[0], padding[-1])
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns
