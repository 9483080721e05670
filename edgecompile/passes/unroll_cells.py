"""Write out what a step of a recurrent network computes."""

from __future__ import annotations

from torch.export import ExportedProgram

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.recurrence import CELLS, unrolled_cell


class UnrollCells:
    """Rewrite GRU, LSTM and plain cells as the linear layers and gates that they are.

    Before: `rnn_tanh_cell(x (N, C), h (N, H), w_ih, w_hh, b_ih, b_hh)`
    After:  `tanh(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh))`

    A network that is given its state and returns the next one runs a step at a time, as sound comes in. No
    engine has such a cell in integers; each has the layers.

    Declines when a layer is over a whole sequence: engines have those, and many steps in integers would lose
    what is to be remembered.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with cells written out."""
        editor = ProgramEditor(program)
        for node in editor.calls(*CELLS):
            state = unrolled_cell(editor, node)
            if state is not None:
                editor.replace(node, state)
        editor.graph.eliminate_dead_code()
        return outcome(editor)
