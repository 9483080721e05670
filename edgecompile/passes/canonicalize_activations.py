"""Express every clamp-like activation in the form that the engines fold into a kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten
_CLAMPS = (
    aten.relu6.default,
    aten.clamp.default,
    aten.clamp.Tensor,
    aten.clip.default,
    aten.clip.Tensor,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.hardtanh.default,
)


class CanonicalizeActivations:
    """Rewrite relu6, clamp, clamp_min and hardtanh to `relu` or `hardtanh(low, high)`.

    Before: `clamp(x, min=0)`, `relu6(x)`, `clamp(x, -1, 1)`
    After:  `relu(x)`, `hardtanh(x, 0, 6)`, `hardtanh(x, -1, 1)`

    Declines when a clamp has a tensor for a bound or one bound only that is not `min=0`, or when it does
    not compute in floating point.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with relu and hardtanh as its only clamps."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_CLAMPS):
            low, high = _bounds(node)
            reason = _why_not(node, low, high)
            if reason is not None:
                declined.append(decline(node, reason, what="clamp"))
            elif low == 0 and high is None:
                editor.replace(node, editor.insert(node, aten.relu.default, node.args[0]))
            elif node.target is not aten.hardtanh.default:
                new = editor.insert(node, aten.hardtanh.default, node.args[0], low, high)
                editor.replace(node, new)
        return outcome(editor, declined)


def _why_not(node: Node, low: object, high: object) -> str | None:
    if isinstance(low, Node) or isinstance(high, Node):
        return Reason("a bound is a tensor, and kernels take numbers", change="clamp to Python numbers")
    if not node.args[0].meta["val"].is_floating_point():  # type: ignore[union-attr]
        return "it does not compute in floating point"
    if (low is None or high is None) and not (low == 0 and high is None):
        return Reason(
            "it has one bound, and no kernel's clamp takes an open one except relu's",
            change="give it both bounds, the other one beyond what the value can be",
        )
    return None


def _bounds(node: Node) -> tuple[Any, Any]:
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    default = (-1.0, 1.0) if node.target is aten.hardtanh.default else (None, None)
    given = dict(enumerate(node.args))
    if node.target is aten.clamp_max.default:
        return None, given[1]
    low = given.get(1, node.kwargs.get("min", node.kwargs.get("min_val", default[0])))
    high = given.get(2, node.kwargs.get("max", node.kwargs.get("max_val", default[1])))
    return tuple(float(bound) if isinstance(bound, int) else bound for bound in (low, high))  # type: ignore[return-value]
