"""The weights that stay take up what those gave that are zero now; the zeros stay where they are.

Layer after layer, what it gave in the whole program is regressed on what it reads with zeros before it, as in
He et al. 2017, arXiv:1707.06168, section 3.1; then the weights that stay take up those that are zero, with
one factor for all rows, as in Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately
Pruned in One-Shot", arXiv:2301.00774, here with masks that are given. What is left of an output channel's
mean error its bias takes up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.compensation import compensated
from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand
from edgecompile.layer_rows import LINEAR, groups_of, rows_read, weight_of_rows, weight_rows
from edgecompile.progress import Progress
from edgecompile.pruning.layer_inputs import LAYERS, LONGEST_ROW, POSITIONS
from edgecompile.pruning.refitted_layers import Refitted, affordable, bias_of, calls_of, given_by, with_layers
from edgecompile.pruning.regression import RowMoments, regressed
from edgecompile.quantize.node_values import SampleValues, computed_value

# One of so many samples chooses how far the regression may go.
_HELD_OUT = 5


def compensate_zeros(
    whole: ExportedProgram, zeroed: ExportedProgram, samples: Sequence[Sample], progress: Progress
) -> ExportedProgram:
    """Return the program with zeros with other weights beside them; a layer without a bias gets one.

    Args:
        whole: The program before.
        zeroed: The same with zeros.
        samples: The values of all of them that are still needed are held at once; fewer where that is too
            much.
        progress: Is told of each layer.
    """
    with torch.no_grad():
        return _Walk(whole, zeroed, affordable(samples, zeroed, whole)).run(progress)


class _Walk:
    def __init__(self, whole: ExportedProgram, zeroed: ExportedProgram, samples: Sequence[Sample]) -> None:
        self._zeroed, self._whole = zeroed, whole
        inputs = [sample.inputs for sample in samples]
        self._own, self._before = (
            SampleValues(program, inputs, {node: node.all_input_nodes for node in program.graph.nodes})
            for program in (zeroed, whole)
        )
        self._generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact

    def run(self, progress: Progress) -> ExportedProgram:
        """Walk both programs side by side."""
        pairs = list(zip(calls_of(self._zeroed), calls_of(self._whole), strict=True))
        progress.start("make up for zeros", sum(node.target in LAYERS for node, _ in pairs))
        changed: dict[str, Refitted] = {}
        for node, twin in pairs:
            zeroed = self._zeroed_weight(node, twin)
            wanted = [computed_value(twin, known) for known in self._before.known]
            if zeroed is None:
                given = [computed_value(node, known) for known in self._own.known]
            else:
                changed[node.name], given = self._changed(node, twin, zeroed, wanted)
            self._before.put(twin, wanted)
            self._own.put(node, given)
            if node.target in LAYERS:
                progress.advance()
        progress.finish(f"{len(changed)} layers, {len(self._own.known)} samples")
        return with_layers(self._zeroed, changed)

    def _zeroed_weight(self, node: Node, twin: Node) -> torch.Tensor | None:
        """Return a layer's weight with its zeros; None where it has no new ones, or is no layer."""
        if node.target not in LAYERS:
            return None
        own: torch.Tensor = self._own.known[0][operand(node, 1)]
        return None if torch.equal(own, self._before.known[0][operand(twin, 1)]) else own

    def _changed(
        self, node: Node, twin: Node, zeroed: torch.Tensor, wanted: list[torch.Tensor]
    ) -> tuple[Refitted, list[torch.Tensor]]:
        """Return what a layer becomes, and what it then gives for each sample."""
        weight = self._compensated(node, twin, zeroed)
        bias = bias_of(node, self._own.known[0])
        given = [given_by(node, known, weight, bias) for known in self._own.known]
        axis = given[0].dim() - 1 if node.target is LINEAR else 1
        missing = [
            (one.double() - other.double()).movedim(axis, 0).flatten(1).mean(1)
            for one, other in zip(wanted, given, strict=True)
        ]
        shift = torch.stack(missing).mean(0).to(weight.dtype)
        column = shift.reshape(-1, *[1] * (given[0].dim() - 1 - axis))
        layer = Refitted(weight=weight, bias=shift if bias is None else bias + shift)
        return layer, [value + column for value in given]

    def _compensated(self, node: Node, twin: Node, zeroed: torch.Tensor) -> torch.Tensor:
        groups = groups_of(node)
        whole = weight_rows(node, self._before.known[0][operand(twin, 1)], groups)
        stays = weight_rows(node, zeroed, groups) != 0
        moments = self._moments(node, twin, whole, tuple(zeroed.shape[2:]))
        if moments is None:
            return zeroed
        seen, held = moments
        aim, _ = regressed(whole, seen, held)
        covariance, _ = seen.second()  # of both, by now

        def settle(column: int, wanted: torch.Tensor) -> torch.Tensor:
            return wanted.masked_fill(~stays[:, :, column], 0.0)

        rows = compensated(aim, covariance, settle)
        return weight_of_rows(node, rows, zeroed.shape).to(zeroed.dtype)

    def _moments(
        self, node: Node, twin: Node, whole: torch.Tensor, kernel: tuple[int, ...]
    ) -> list[RowMoments] | None:
        """Return those of what a layer reads and should give, on samples and on held-out ones."""
        if whole.shape[2] > LONGEST_ROW:  # it only gets another bias
            return None
        moments: list[RowMoments] = []
        for index, (own, before) in enumerate(zip(self._own.known, self._before.known, strict=True)):
            read = rows_read(node, own[operand(node)], kernel)
            read_before = rows_read(node, before[operand(twin)], kernel)
            if read is None or read_before is None:
                return None
            drawn = torch.randperm(len(read), generator=self._generator)[:POSITIONS]
            read, wanted = read[drawn], torch.einsum("ngl,grl->ngr", read_before[drawn], whole)
            moments = moments or [RowMoments(read, wanted, centred=True) for _ in range(2)]
            moments[index % _HELD_OUT == _HELD_OUT - 1].add(read, wanted)
        return moments
