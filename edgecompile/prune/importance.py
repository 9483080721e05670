"""How much each unit matters: what its removal costs in quality, comparable over groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand, output_nodes
from edgecompile.layer_rows import groups_of, weight_rows
from edgecompile.progress import Progress
from edgecompile.prune.channel_groups import ChannelGroups
from edgecompile.prune.labels import Labels
from edgecompile.prune.layer_inputs import LAYERS, input_moments, input_power, readers_of
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import computed_value, given_values

aten = torch.ops.aten


def l1(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """The sum of a unit's absolute weights (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""
    return _of_what_is_left(groups, _summed_weights(exported, groups, torch.abs))


def l2(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """The sum of a unit's squared weights, in all layers that make it and read it."""
    return _of_what_is_left(groups, _summed_weights(exported, groups, torch.square))


def batch_norm(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """The scale in batch norms (Liu et al. 2017, "Network Slimming"); elsewhere the squared weights."""
    constants = constants_of(exported)
    found = torch.zeros(groups.count)
    for node in exported.graph.nodes:
        scale = node.args[1] if node.target is aten.batch_norm.default else None
        if not isinstance(scale, Node):
            continue
        for labels in groups.of_constants.get(scale, ()):
            found.index_add_(0, labels.ids, constants[scale.name].abs())
    weights = l2(exported, groups, samples, progress)
    scaled = _of_what_is_left(groups, found)
    has_scale = torch.zeros(groups.count, dtype=torch.bool)
    for group in groups.groups:
        has_scale[group.units] = bool(found[group.units].any())
    return torch.where(has_scale, scaled, weights)


def activation(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """The energy of what the layers after a unit read of it, on the samples."""
    found = torch.zeros(groups.count)
    readers = readers_of(exported, groups)
    for reader, power in zip(readers, input_power(exported, readers, samples, progress), strict=True):
        found.index_add_(0, reader.units, power)
    return _of_what_is_left(groups, found)


def taylor(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """What zeroing a unit changes at the outputs, to first order; no labels are needed.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", arXiv:1906.10771, take the
    square of gradient times value with the loss of training. Here the loss is the squared distance of the
    outputs from what they are, whose gradient is 0: its curvature is what counts, a Gauss-Newton matrix,
    estimated with random projections of the outputs. Gradient times value of what a layer reads, summed over
    its positions, is gradient times weight of the columns that read it.
    """
    readers = readers_of(exported, groups)
    names = {operand(reader.node, 1).name for reader in readers}
    generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
    found = torch.zeros(groups.count, dtype=torch.float64)
    for sample in samples:
        values, weights = given_values(exported, sample.inputs), {}
        for node in values:
            if node.name in names:
                weights[node.name] = values[node] = values[node].detach().requires_grad_()
        with torch.enable_grad():
            for node in exported.graph.nodes:
                if node.op == "call_function":
                    values[node] = computed_value(node, values)
            projected = torch.zeros(())
            for node in output_nodes(exported.graph):
                if values[node].is_floating_point():
                    direction = torch.randn(values[node].shape, generator=generator)
                    power = values[node].detach().square().sum().clamp_min(1e-12)
                    projected = projected + (values[node] * direction).sum() / power.sqrt()
        gradients = torch.autograd.grad(projected, list(weights.values()), allow_unused=True)
        by_name = dict(zip(weights, gradients, strict=True))
        change = torch.zeros(groups.count, dtype=torch.float64)
        for reader in readers:
            gradient = by_name[operand(reader.node, 1).name]
            if gradient is not None:
                change.index_add_(0, reader.units, reader.per_channel(gradient * reader.weight).double())
        found += change.square()
        progress.advance()
    return found / len(samples)


def reconstruction(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """The error that is left in the layers after a unit once their other weights make up for it.

    With the second moments A of what a layer reads, removing the columns u and solving for the others leaves
    W_u (inv(A)_uu)^-1 W_u' (Hassibi & Stork 1993, "Optimal Brain Surgeon"), here a share of the power of the
    layer's outputs, one column at a time.
    """
    readers = readers_of(exported, groups)
    found = torch.zeros(groups.count, dtype=torch.float64)
    moments = input_moments(exported, readers, samples, progress)
    for reader, moment in zip(readers, moments, strict=True):
        if moment is None:
            continue
        rows = weight_rows(reader.node, reader.weight.double(), groups_of(reader.node)).flatten(0, 1)
        power = ((rows @ moment) * rows).sum()
        damped = moment + 1e-3 * moment.diagonal().mean().clamp_min(1e-12) * torch.eye(len(moment))
        spread = torch.linalg.inv(damped).diagonal().clamp_min(1e-12)
        error = (rows.square().sum(0) / spread).reshape(len(reader.units), -1).sum(1)
        found.index_add_(0, reader.units, error / power.clamp_min(1e-12))
    return found


Importance = Callable[
    [ExportedProgram, ChannelGroups, Sequence[Sample], Progress],
    torch.Tensor,
]
IMPORTANCES: dict[str, Importance] = {
    "l1": l1,
    "l2": l2,
    "batch-norm": batch_norm,
    "activation": activation,
    "taylor": taylor,
    "reconstruction": reconstruction,
}


def _summed_weights(
    exported: ExportedProgram, groups: ChannelGroups, of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return the sum over all weights that a unit has in layers, (units,)."""
    constants, found = constants_of(exported), torch.zeros(groups.count)
    weights = {node.args[1] for node in exported.graph.nodes if node.target in LAYERS}
    for node in weights:
        for labels in groups.of_constants.get(node, ()) if isinstance(node, Node) else ():
            found.index_add_(0, labels.ids.reshape(-1), _sums(of(constants[node.name]), labels))
    return found


def _sums(value: torch.Tensor, labels: Labels) -> torch.Tensor:
    others = [axis for axis in range(value.dim()) if axis not in labels.axes]
    return (value.sum(others) if others else value).reshape(-1)


def _of_what_is_left(groups: ChannelGroups, score: torch.Tensor) -> torch.Tensor:
    """Return scores as shares of what their group has left when they go, the least first.

    So they are comparable over groups of few units and of many, and the last units of a group matter most
    (Lee et al. 2021, "Layer-Adaptive Sparsity for the Magnitude-based Pruning", arXiv:2010.07611).
    """
    found = torch.zeros_like(score)
    for group in groups.groups:
        units = group.units[score[group.units].argsort(stable=True)]
        left = score[units].flip(0).cumsum(0).flip(0)
        found[units] = score[units] / left.clamp_min(1e-12)
    return found
