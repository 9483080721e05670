"""Compute what depends on constants alone, once, at compile time."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten

# A folded constant larger than this may not be larger than its inputs: it is stored in every artifact.
_LARGE_BYTES = 1 << 22
# What these give depends on the shape of what they read alone.
_LIKE = (
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
)


class FoldConstants:
    """Replace operators whose inputs are all constants by their value.

    Before: `mean (3,) -> view (1, 3, 1, 1) -> sub(x (N, 3, H, W), .)`
    After:  `sub(x, constant (1, 3, 1, 1))`

    Before: `table (64, 128) -> chunk(2, 1) -> [0], [1]`
    After:  constants (64, 64)

    Before: `zeros_like(x (1, 8))`
    After:  constant (1, 8)

    Declines when the value would be larger than 4 MB and than its inputs (an expanded table), or when the
    operator is random.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with constant expressions computed."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls():
            computed = operand(node) if node.target is operator.getitem else node
            if not isinstance(node.meta.get("val"), torch.Tensor):
                continue  # of several values, those that are read are folded
            if any(_constant(editor, computed, source) is None for source in computed.all_input_nodes):
                continue
            reason = _why_not(computed) or _fold(editor, node, computed)
            if reason is not None:
                declined.append(decline(node, reason, what=operator_name(node)))
        editor.graph.eliminate_dead_code()
        return outcome(editor, declined)


def _why_not(node: Node) -> str | None:
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return Reason("it is random", change="compute it once, and store it as a buffer")
    return None


def _constant(editor: ProgramEditor, node: Node, source: Node) -> torch.Tensor | None:
    """Return the value of what a node reads; None where it is not known at compile time."""
    value = source.meta.get("val")
    if node.target in _LIKE and isinstance(value, torch.Tensor):
        sizes = [*value.shape, *node.meta["val"].shape]
        return torch.zeros((), dtype=value.dtype).expand(value.shape) if _are_numbers(sizes) else None
    return editor.constant(source)


def _are_numbers(sizes: Sequence[object]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _fold(editor: ProgramEditor, node: Node, computed: Node) -> str | None:
    """Replace a node by what is computed, or by a part of it; return why not where that is large."""
    args, kwargs = map_arg(
        (computed.args, computed.kwargs), lambda source: _constant(editor, computed, source)
    )
    assert callable(computed.target)
    value: torch.Tensor = computed.target(*args, **kwargs)
    if node is not computed:
        value = value[cast("int", node.args[1])]
    constants = [source for source in computed.all_input_nodes if editor.constant(source) is not None]
    grows = value.nbytes > sum(source.meta["val"].nbytes for source in constants)
    if grows and value.nbytes > _LARGE_BYTES:
        return f"its value takes {value.nbytes / 1e6:.1f} MB, more than what it is computed from"
    # A view of a constant would drag the whole of its storage along.
    own = value.detach().clone(memory_format=torch.contiguous_format)
    editor.replace(node, editor.add_constant(f"{node.name}_folded", own))
    return None
