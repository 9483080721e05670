"""How much each unit matters: what its removal costs in quality, comparable over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand, output_nodes
from edgecompile.layer_rows import LINEAR, groups_of, weight_rows
from edgecompile.progress import Progress
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.pruning.elimination import Columns, eliminate
from edgecompile.pruning.labels import Labels
from edgecompile.pruning.layer_inputs import LAYERS, Moments, Reader, input_moments, input_power, readers_of
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
    found = torch.zeros(groups.count, dtype=torch.float64)
    for node in exported.graph.nodes:
        scale = node.args[1] if node.target is aten.batch_norm.default else None
        if not isinstance(scale, Node):
            continue
        for labels in groups.of_constants.get(scale, ()):
            found.index_add_(0, labels.ids, constants[scale.name].abs().double())
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
    found = torch.zeros(groups.count, dtype=torch.float64)
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
    readers_by_weight = {operand(reader.node, 1): reader for reader in readers_of(exported, groups)}
    weights = list(readers_by_weight)
    generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
    found = torch.zeros(groups.count, dtype=torch.float64)
    for sample in samples:
        gradients = _gradients(exported, weights, weights, sample, generator)
        change = torch.zeros(groups.count, dtype=torch.float64)
        for reader, gradient in zip(readers_by_weight.values(), gradients, strict=True):
            if gradient is not None:
                change.index_add_(0, reader.units, reader.per_channel(gradient * reader.weight).double())
        found += change.square()
        progress.advance()
    return found / len(samples)


def _gradients(
    exported: ExportedProgram,
    leaves: Sequence[Node],
    of: Sequence[Node],
    sample: Sample,
    generator: torch.Generator,
) -> tuple[torch.Tensor | None, ...]:
    """Return gradients of the outputs, each divided by its norm, along a random direction.

    In place of an output of integers, it is what these are computed from.

    Args:
        exported: The program.
        leaves: The constants that gradients can be taken of: what depends on none of them has none.
        of: The nodes whose gradients are wanted.
        sample: The inputs.
        generator: Draws the direction.
    """
    values = given_values(exported, sample.inputs)
    for leaf in leaves:
        values[leaf] = values[leaf].detach().requires_grad_()
    projected = torch.zeros(())
    with torch.enable_grad():
        for node in exported.graph.nodes:
            if node.op == "call_function":
                values[node] = computed_value(node, values)
        for node in _float_results(exported, values):
            direction = torch.randn(values[node].shape, generator=generator)
            power = values[node].detach().square().sum().clamp_min(1e-12)
            projected = projected + (values[node] * direction).sum() / power.sqrt()
    if not projected.requires_grad:
        return (None,) * len(of)
    return torch.autograd.grad(projected, [values[node] for node in of], allow_unused=True)


def _float_results(exported: ExportedProgram, values: Mapping[Node, object]) -> list[Node]:
    """Return the outputs, and for those that are no floats what they are computed from."""
    left, found = list(output_nodes(exported.graph)), dict[Node, bool]()
    while left:
        node = left.pop()
        if node in found:
            continue
        value = values[node]
        found[node] = isinstance(value, torch.Tensor) and value.is_floating_point()
        if not found[node]:
            left += node.all_input_nodes
    return [node for node in exported.graph.nodes if found.get(node)]


def reconstruction(
    exported: ExportedProgram, groups: ChannelGroups, samples: Sequence[Sample], progress: Progress
) -> torch.Tensor:
    """What the outputs change by once the other weights of the layers after a unit make up for it.

    Units of a group are eliminated one after another (`elimination.py`). How much a layer's output matters is
    the squared gradient of the model's outputs there, so that the curvature is the Kronecker product of
    both (Martens & Grosse 2015, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature",
    arXiv:1503.05671).
    """
    readers = readers_of(exported, groups)
    moments = input_moments(exported, readers, samples, progress)
    slopes, changes = _output_slopes(exported, readers, moments, samples)
    found = torch.zeros(groups.count, dtype=torch.float64)
    for reader, moment, change in zip(readers, moments, changes, strict=True):
        if moment is None:  # nothing makes up for it, as far as is known
            found.index_add_(0, reader.units, change)
    for group in groups.groups:
        columns = []
        for reader, moment, slope in zip(readers, moments, slopes, strict=True):
            of_unit = _columns_of(group.units, reader, groups.count)
            if moment is None or of_unit is None:
                continue
            columns.append(
                Columns(rows=_scaled_rows(reader, slope), covariance=moment.shrunk(), of_unit=of_unit)
            )
        if columns:
            found[group.units] += eliminate(len(group.units), columns)
    return found


def _columns_of(units: torch.Tensor, reader: Reader, count: int) -> torch.Tensor | None:
    """Return which columns of a reader's weight each unit has, as `Columns` wants it; None where none has.

    Args:
        units: Those of a group.
        reader: The layer.
        count: How many units the program has.
    """
    place = torch.full((count,), -1)
    place[units] = torch.arange(len(units))
    owner = place[reader.row_units]  # of each channel
    channels = (owner >= 0).nonzero().flatten()
    if not len(channels):
        return None
    channels = channels[owner[channels].argsort(stable=True)]
    counts = torch.bincount(owner[channels], minlength=len(units))
    rank = torch.arange(len(channels)) - (counts.cumsum(0) - counts)[owner[channels]]  # among its unit's own
    found = torch.full((len(units), int(counts.max()), reader.taps), -1)
    found[owner[channels], rank] = channels[:, None] * reader.taps + torch.arange(reader.taps)
    return found.flatten(1)


def _output_slopes(
    exported: ExportedProgram,
    readers: Sequence[Reader],
    moments: Sequence[Moments | None],
    samples: Sequence[Sample],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return how much errors at each reader matter at the outputs, by what it gives and by what it reads.

    The first is of a squared error at each channel that it gives, (K,): the squared gradient, summed over
    positions as if errors there were independent, times what makes the changes by single channels of the
    input as large as they are, since errors of neighbours mostly agree. The second is those changes: what
    removing each channel that it reads does to the outputs, to first order, (C,).
    """
    generator = torch.Generator().manual_seed(0)
    weights, nodes = [operand(reader.node, 1) for reader in readers], [reader.node for reader in readers]
    slopes = [torch.zeros(1, dtype=torch.float64) for _ in readers]
    changes = [torch.zeros(len(reader.units), dtype=torch.float64) for reader in readers]
    for sample in samples:
        gradients = _gradients(exported, weights, [*nodes, *weights], sample, generator)
        pairs = zip(gradients[: len(nodes)], gradients[len(nodes) :], strict=True)
        for index, (of_output, of_weight) in enumerate(pairs):
            if of_output is None or of_weight is None:
                continue
            reader = readers[index]
            axis = of_output.dim() - 1 if reader.node.target is LINEAR else 1
            own = of_output.double().movedim(axis, 0).flatten(1).square().sum(1)
            slopes[index] = slopes[index] + own / len(samples)
            change = reader.per_channel(of_weight * reader.weight).double().square()
            changes[index] = changes[index] + change / len(samples)
    for index, (reader, moment) in enumerate(zip(readers, moments, strict=True)):
        if moment is None:
            continue
        power = _scaled_rows(reader, slopes[index]).square().sum(0) * moment.power
        slopes[index] = slopes[index] * (changes[index].sum() / power.sum().clamp_min(1e-30))
    return slopes, changes


def _scaled_rows(reader: Reader, slope: torch.Tensor) -> torch.Tensor:
    """Return the rows of a reader's weight, each scaled by how much its output matters, (outputs, length)."""
    rows = weight_rows(reader.node, reader.weight.double(), groups_of(reader.node)).flatten(0, 1)
    return rows * slope.repeat_interleave(len(rows) // len(slope)).sqrt()[:, None]


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
    constants, found = constants_of(exported), torch.zeros(groups.count, dtype=torch.float64)
    # In order, so that the sums round alike in each run.
    weights = dict.fromkeys(node.args[1] for node in exported.graph.nodes if node.target in LAYERS)
    for node in weights:
        for labels in groups.of_constants.get(node, ()) if isinstance(node, Node) else ():
            found.index_add_(0, labels.ids.reshape(-1), _sums(of(constants[node.name].double()), labels))
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
