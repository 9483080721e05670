"""Remove what no output depends on."""

from __future__ import annotations

from torch.export import ExportedProgram

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome


class RemoveDeadCode:
    """Remove calls and constants that no output depends on.

    Before: `a = relu(x); b = exp(x); return a`
    After:  `a = relu(x); return a`

    Declines when the operator writes to its inputs (the capture leaves none of these).
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without dead code."""
        editor = ProgramEditor(program)
        before = len(editor.graph.nodes)
        editor.graph.eliminate_dead_code()
        editor.rewrites = before - len(editor.graph.nodes)
        return outcome(editor)
