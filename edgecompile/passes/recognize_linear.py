"""Recognize linear layers that a model writes as matrix products with a constant."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.program import Reason

aten = torch.ops.aten

_PRODUCTS = (aten.matmul.default, aten.mm.default, aten.addmm.default)


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
        return rewrite_calls(program, dict.fromkeys(_PRODUCTS, _linear))


def _linear(editor: ProgramEditor, node: Node) -> Node | str | None:
    is_sum = node.target is aten.addmm.default
    left, right = (operand(node, index) for index in ((1, 2) if is_sum else (0, 1)))
    value = editor.constant(right)
    if value is None and editor.constant(left) is None:
        return None
    bias = operand(node) if is_sum else None
    reason = _why_not(editor, node, value, bias)
    if value is None or reason is not None:
        return reason
    weight = editor.add_constant(f"{right.name}_turned", value.T)
    return editor.insert(node, aten.linear.default, left, weight, *([] if bias is None else [bias]))


def _why_not(editor: ProgramEditor, node: Node, right: torch.Tensor | None, bias: Node | None) -> str | None:
    if right is None or right.dim() != 2:
        return Reason(
            "its constant is not a matrix on the right", change="write it as x @ weight, or as a linear layer"
        )
    if node.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    if bias is not None and (node.kwargs or editor.constant(bias) is None or len(shape_of(bias)) != 1):
        return Reason("what it adds is no row of constants", change="write it as a linear layer with a bias")
    return None
