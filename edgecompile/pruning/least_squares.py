"""Recovery in closed form: each layer's weights are fitted so that it gives what it gave before.

Layer after layer, what it gave in the whole program is regressed on what it reads in the pruned one, as in He
et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, section 3.1, here
with ridge regression towards the weights that stayed. All layers before it are as they are in the end, so
that errors do not add up. No labels and no gradients are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand
from edgecompile.layer_rows import TRANSPOSED, groups_of, rows_read, weight_of_rows, weight_rows
from edgecompile.progress import Progress
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.pruning.refitted_layers import Refitted, bias_of, calls_of, given_by, with_layers
from edgecompile.pruning.row_regression import RowMoments, regressed
from edgecompile.quantize.node_values import SampleValues, computed_value

# One of so many samples chooses.
_HELD_OUT = 5
# Positions of a sample that are used, drawn at random: neighbours say much the same.
_POSITIONS = 256
# Layers with longer rows stay as they are: the time grows with the cube of the length.
_LONGEST_ROW = 5000


def fit_layers(pruned: PrunedProgram, samples: Sequence[Sample], progress: Progress) -> PrunedProgram:
    """Return the pruned program with fitted weights and biases; a layer without a bias gets one.

    Args:
        pruned: The program.
        samples: The values of all of them that are still needed are held at once.
        progress: Is told of each layer.
    """
    with torch.no_grad():
        return replace(pruned, exported=_Fit(pruned, samples).run(progress))


class _Fit:
    def __init__(self, pruned: PrunedProgram, samples: Sequence[Sample]) -> None:
        self._pruned, self._whole = pruned.exported, pruned.whole
        self._groups, self._keep = pruned.groups, pruned.keep
        inputs = [sample.inputs for sample in samples]
        self._own, self._before = (
            SampleValues(program, inputs, {node: node.all_input_nodes for node in program.graph.nodes})
            for program in (pruned.exported, pruned.whole)
        )
        self._generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact

    def run(self, progress: Progress) -> ExportedProgram:
        """Walk both programs side by side."""
        pairs = list(zip(calls_of(self._pruned), calls_of(self._whole), strict=True))
        layers = {node for node, _ in pairs if _has_own_weight(node)}
        progress.start("fit layers", len(layers))
        fitted: dict[str, Refitted] = {}
        for node, twin in pairs:
            found = None
            if node in layers:
                found = self._fit(node, twin)
                progress.advance()
            self._before.put(twin, [computed_value(twin, known) for known in self._before.known])
            if found is None:
                self._own.put(node, [computed_value(node, known) for known in self._own.known])
            else:
                fitted[node.name] = found
                given = [given_by(node, known, found.weight, found.bias) for known in self._own.known]
                self._own.put(node, given)
        progress.finish(f"{len(fitted)} of {len(layers)} layers, {len(self._own.known)} samples")
        return with_layers(self._pruned, fitted)

    def _fit(self, node: Node, twin: Node) -> Refitted | None:
        """Return what a layer's weight should be; None where that cannot be told."""
        known = self._own.known[0]
        weight, bias = known[operand(node, 1)], bias_of(node, known)
        start = weight_rows(node, weight, groups_of(node))
        wanted_weight, input_indices = self._wanted_weight(node, twin)
        if start.shape[2] > _LONGEST_ROW:
            return None
        moments = [RowMoments(*start.shape), RowMoments(*start.shape)]
        for index, (own, before) in enumerate(zip(self._own.known, self._before.known, strict=True)):
            value = before[operand(twin)]
            if input_indices is not None:
                value = value.index_select(1, input_indices)
            read = rows_read(node, own[operand(node)], tuple(weight.shape[2:]))
            read_before = rows_read(node, value, tuple(weight.shape[2:]))
            if read is None or read_before is None:
                return None
            drawn = torch.randperm(len(read), generator=self._generator)[:_POSITIONS]
            wanted = torch.einsum("ngl,grl->ngr", read_before[drawn], wanted_weight)
            moments[index % _HELD_OUT == _HELD_OUT - 1].add(read[drawn], wanted)
        rows, shift = regressed(start, *moments)
        return Refitted(
            weight=weight_of_rows(node, rows, weight.shape), bias=shift if bias is None else bias + shift
        )

    def _wanted_weight(self, node: Node, twin: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the rows of the whole program's weight for what the layer still gives.

        They are multiplied with all channels that the layer read before; where whole groups of them are gone,
        with those whose indices are returned.
        """
        weight = self._before.known[0][operand(twin, 1)]
        input_axis = 0 if node.target in TRANSPOSED else 1
        lost_groups = groups_of(node) != groups_of(twin)
        for labels in self._groups.of_constants.get(operand(twin, 1), ()):
            for axis, indices in labels.kept(self._keep).items():
                if axis != input_axis or lost_groups:
                    weight = weight.index_select(axis, indices)
        inputs = self._groups.of_values[operand(twin)].kept(self._keep)[1] if lost_groups else None
        return weight_rows(node, weight, groups_of(node)), inputs


def _has_own_weight(node: Node) -> bool:
    """Tell whether a layer has a weight that no other has, and reads anything but the model's inputs."""
    if node.target not in LAYERS or operand(node).op == "placeholder" or not isinstance(node.args[1], Node):
        return False
    return node.args[1].op == "placeholder" and len(node.args[1].users) == 1
