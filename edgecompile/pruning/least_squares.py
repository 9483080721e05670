"""Recovery in closed form: each layer's weights are fitted so that it gives what it gave before.

Layer after layer, what it gave in the whole program is regressed on what it reads in the pruned one, as in He
et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, section 3.1, here
with ridge regression towards the weights that stayed. All layers before it are as they are in the end, so
that errors do not add up. No labels and no gradients are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand, output_nodes, shape_of
from edgecompile.layer_rows import (
    LINEAR,
    TRANSPOSED,
    groups_of,
    rows_read,
    sizes_of,
    weight_of_rows,
    weight_rows,
)
from edgecompile.progress import Progress
from edgecompile.pruning.layer_inputs import LAYERS, LONGEST_ROW, POSITIONS
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.pruning.refitted_layers import Refitted, affordable, bias_of, calls_of, given_by, with_layers
from edgecompile.pruning.regression import RowMoments, regressed
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import SampleValues, all_values, computed_value

# One of so many samples chooses.
_HELD_OUT = 5


def fit_layers(pruned: PrunedProgram, samples: Sequence[Sample], progress: Progress) -> PrunedProgram:
    """Return the pruned program with fitted weights and biases; a layer without a bias gets one.

    Where the outputs of the fitted program are further off than before, as they can be after a norm of all
    channels, it is returned as it was.

    Args:
        pruned: The program.
        samples: The values of all of them that are still needed are held at once; where these would take
            too much memory, fewer are used, evenly spaced.
        progress: Is told of each layer.
    """
    with torch.no_grad():
        used = affordable(samples, pruned.exported, pruned.whole)
        fit = _Fit(pruned, used)
        exported, count = fit.run(progress)
        less = f" of {len(samples)}: the values of more take too much" if len(used) < len(samples) else ""
        if not fit.is_nearer(used):
            progress.finish(f"left as they are: the outputs would be further off, {len(used)} samples{less}")
            return pruned
        progress.finish(f"{count}, {len(used)} samples{less}")
        return replace(pruned, exported=exported)


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

    def run(self, progress: Progress) -> tuple[ExportedProgram, str]:
        """Walk both programs side by side; return the fitted one, and how many of its layers are fitted."""
        pairs = list(zip(calls_of(self._pruned), calls_of(self._whole), strict=True))
        constants = constants_of(self._pruned)
        layers = {node for node, _ in pairs if _has_own_weight(node, constants)}
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
                self._own.put(
                    node, [given_by(node, known, found.weight, found.bias) for known in self._own.known]
                )
        return with_layers(self._pruned, fitted), f"{len(fitted)} of {len(layers)} layers"

    def is_nearer(self, samples: Sequence[Sample]) -> bool:
        """Tell whether the outputs are nearer to those of the whole program than without the fit."""
        errors = [0.0, 0.0]
        nodes = list(zip(output_nodes(self._pruned.graph), output_nodes(self._whole.graph), strict=True))
        for index in range(0, len(samples), min(_HELD_OUT, len(samples))):
            without = all_values(self._pruned, samples[index].inputs)
            for node, twin in nodes:
                wanted = self._before.known[index][twin]
                for place, found in enumerate((self._own.known[index][node], without[node])):
                    errors[place] += _share(found, wanted)
        return not errors[0] > errors[1]

    def _fit(self, node: Node, twin: Node) -> Refitted | None:
        """Return what a layer's weight should be; None where that cannot be told."""
        known = self._own.known[0]
        weight, bias = known[operand(node, 1)], bias_of(node, known)
        start = weight_rows(node, weight, groups_of(node))
        if start.shape[2] > LONGEST_ROW:
            return None
        wanted_weight, kept = self._wanted_weight(node, twin), self._kept_inputs(node, twin)
        moments: list[RowMoments] = []
        for index, (own, before) in enumerate(zip(self._own.known, self._before.known, strict=True)):
            value = before[operand(twin)]
            for axis, indices in kept.items():
                value = value.index_select(axis, indices)
            read = rows_read(node, own[operand(node)], tuple(weight.shape[2:]))
            read_before = rows_read(node, value, tuple(weight.shape[2:]))
            if read is None or read_before is None:
                return None
            drawn = torch.randperm(len(read), generator=self._generator)[:POSITIONS]
            read, wanted = read[drawn], torch.einsum("ngl,grl->ngr", read_before[drawn], wanted_weight)
            # A transposed convolution has one bias for all of its taps.
            centred = node.target not in TRANSPOSED
            moments = moments or [RowMoments(read, wanted, centred=centred) for _ in range(2)]
            moments[index % _HELD_OUT == _HELD_OUT - 1].add(read, wanted)
        rows, shift = regressed(start, *moments)
        if not bool(rows.isfinite().all() and shift.isfinite().all()):
            return None
        own_shift = _bias_of(node, shift, weight).to(weight.dtype)
        return Refitted(
            weight=weight_of_rows(node, rows.to(weight.dtype), weight.shape),
            bias=own_shift if bias is None else bias + own_shift,
        )

    def _wanted_weight(self, node: Node, twin: Node) -> torch.Tensor:
        """Return the rows of the whole program's weight for what the layer still gives.

        They are multiplied with all channels that the layer read before, or where whole groups of them are
        gone, with those of the others.
        """
        weight: torch.Tensor = self._before.known[0][operand(twin, 1)]
        input_axis = 0 if node.target in TRANSPOSED else 1
        for labels in self._groups.of_constants.get(operand(twin, 1), ()):
            for axis, indices in labels.kept(self._keep).items():
                if axis != input_axis or _lost_groups(node, twin):
                    weight = weight.index_select(axis, indices)
        return weight_rows(node, weight, groups_of(node))

    def _kept_inputs(self, node: Node, twin: Node) -> dict[int, torch.Tensor]:
        """Return by axis the indices, of what the layer read before, whose rows or groups are left."""
        labels = self._groups.of_values.get(operand(twin))
        if labels is None:
            return {}
        summed = len(shape_of(operand(twin))) - 1 if node.target is LINEAR else 1
        kept = labels.kept(self._keep)
        return {axis: indices for axis, indices in kept.items() if axis != summed or _lost_groups(node, twin)}


def _share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the squared error of an output as a share of its power; 0 for integers."""
    if not wanted.is_floating_point():
        return 0.0
    is_finite = wanted.isfinite()  # masked logits are -inf
    one, other = (value.double().masked_fill(~is_finite, 0) for value in (found, wanted))
    return float((one - other).square().sum() / other.square().sum().clamp_min(1e-12))


def _has_own_weight(node: Node, constants: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether a layer has a weight that no other has, and reads anything but the model's inputs."""
    if node.target not in LAYERS or operand(node).op == "placeholder":
        return False
    weight = node.args[1]
    is_known = all(argument is None or _is_constant(argument, constants) for argument in node.args[1:3])
    return is_known and isinstance(weight, Node) and len(weight.users) == 1


def _is_constant(argument: object, constants: Mapping[str, torch.Tensor]) -> bool:
    return isinstance(argument, Node) and argument.name in constants


def _lost_groups(node: Node, twin: Node) -> bool:
    """Tell whether a convolution has fewer groups than it had."""
    return groups_of(node) != groups_of(twin)


def _bias_of(node: Node, shift: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the bias, (channels,), that adds what rows miss on average, (groups, outputs).

    The rows of a transposed convolution are taps of its channels: each output is the sum of some of them.
    """
    if node.target not in TRANSPOSED:
        return shift.flatten()
    taps = weight.shape[2:]
    strides = math.prod(sizes_of(node, 3, taps, 1))
    return shift.reshape(-1, math.prod(taps)).sum(1) / strides
