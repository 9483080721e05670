"""Recognize linear layers that a model writes as matrix products with a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten


class RecognizeLinear:
    """Rewrite products with a constant matrix as `linear`, which every engine has in integers.

    Before: `matmul(x (N, L, C), weight (C, K))`, or `mm(x (N, C), weight)`
    After:  `linear(x, weight.T (K, C))`

    Before: `addmm(bias (K), x (N, C), weight (C, K))`
    After:  `linear(x, weight.T, bias)`

    Declines when the constant is not a matrix on the right, when it does not compute in float32, and for
    `addmm` with factors, or whose first operand is no row of constants.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with linear layers."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(aten.matmul.default, aten.mm.default, aten.addmm.default):
            is_sum = node.target is aten.addmm.default
            left, right = (operand(node, index) for index in ((1, 2) if is_sum else (0, 1)))
            if editor.constant(left) is None and editor.constant(right) is None:
                continue
            bias = operand(node) if is_sum else None
            reason = _why_not(editor, node, right, bias)
            if reason is not None:
                declined.append(decline(node, reason, what=operator_name(node)))
                continue
            value = editor.constant(right)
            assert value is not None
            weight = editor.add_constant(f"{right.name}_turned", value.T)
            arguments: list[Any] = [left, weight, *([] if bias is None else [bias])]
            editor.replace(node, editor.insert(node, aten.linear.default, *arguments))
        return outcome(editor, declined)


def _why_not(editor: ProgramEditor, node: Node, right: Node, bias: Node | None) -> str | None:
    if editor.constant(right) is None or len(shape_of(right)) != 2:
        return Reason(
            "its constant is not a matrix on the right", change="write it as x @ weight, or as a linear layer"
        )
    if node.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    if bias is not None and (node.kwargs or editor.constant(bias) is None or len(shape_of(bias)) != 1):
        return Reason("what it adds is no row of constants", change="write it as a linear layer with a bias")
    return None
