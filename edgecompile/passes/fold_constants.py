"""Compute what depends on constants alone, once, at compile time."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

# A folded constant larger than this may not be larger than its inputs: it is stored in every artifact.
_LARGE_BYTES = 1 << 22


class FoldConstants:
    """Replace operators whose inputs are all constants by their value.

    Before: `mean (3,) -> view (1, 3, 1, 1) -> sub(x (N, 3, H, W), .)`
    After:  `sub(x, constant (1, 3, 1, 1))`

    Declines when the value would be larger than 4 MB and than its inputs (an expanded table), or when the
    operator is random or returns several values.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with constant expressions computed."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls():
            inputs = node.all_input_nodes
            if any(editor.constant(source) is None for source in inputs):
                continue
            reason = _why_not(node)
            if reason is None:
                value = _evaluate(editor, node)
                grows = value.nbytes > sum(source.meta["val"].nbytes for source in inputs)
                if grows and value.nbytes > _LARGE_BYTES:
                    reason = (
                        f"its value takes {value.nbytes / 1e6:.1f} MB, more than what it is computed from"
                    )
            if reason is not None:
                declined.append(decline(node, reason, what=operator_name(node)))
                continue
            editor.replace(node, editor.add_constant(f"{node.name}_folded", value))
        return outcome(editor, declined)


def _why_not(node: Node) -> str | None:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return Reason("it is random", change="compute it once, and store it as a buffer")
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return Reason("it returns several values", change="compute them once, and store them as buffers")
    return None


def _evaluate(editor: ProgramEditor, node: Node) -> torch.Tensor:
    args, kwargs = map_arg((node.args, node.kwargs), editor.constant)
    assert callable(node.target)
    value: torch.Tensor = node.target(*args, **kwargs)
    # A view of a constant would drag the whole of its storage along.
    return value.detach().clone(memory_format=torch.contiguous_format)
