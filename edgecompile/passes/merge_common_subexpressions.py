"""Compute the same expression once."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome


class MergeCommonSubexpressions:
    """Let equal calls share one value.

    Before: `a = relu(x); b = relu(x); y = a + b`
    After:  `a = relu(x); y = a + a`

    Declines when the operator is random (two calls draw two values).
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with equal calls merged."""
        editor = ProgramEditor(program)
        seen: dict[str, Node] = {}
        for node in editor.calls():
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                continue
            # Nodes print as their unique names, so equal text means equal arguments.
            key = f"{node.target}|{node.args!r}|{node.kwargs!r}"
            first = seen.setdefault(key, node)
            if first is not node:
                editor.replace(node, first)
        return outcome(editor)
