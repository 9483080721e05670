"""What layers read on the samples: the power of each channel, the second moments of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import operand
from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED, rows_read
from edgecompile.progress import Progress
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import computed_value, given_values

LAYERS = (*CONVOLUTIONS, *TRANSPOSED, LINEAR)
# Positions of a sample that are used, drawn at random: neighbours say much the same.
_POSITIONS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Reader:
    """A layer that sums over channels of its input.

    Attributes:
        node: The layer.
        weight: Its weight.
        axis: The axis of the weight for the input's channels, or for those of one group.
        units: The unit of each of them, (C,).
    """

    node: Node
    weight: torch.Tensor
    axis: int
    units: torch.Tensor

    def per_channel(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sums of something like the weight for each channel, (C,)."""
        return value.movedim(self.axis, 0).flatten(1).sum(1)


def readers_of(exported: ExportedProgram, groups: ChannelGroups) -> list[Reader]:
    """Return the layers that sum over channels that have units, in order."""
    constants, found = constants_of(exported), []
    for node in exported.graph.nodes:
        weight = node.args[1] if node.target in LAYERS else None
        if not isinstance(weight, Node) or weight.name not in constants:
            continue
        axis = 0 if node.target in TRANSPOSED else 1
        value = constants[weight.name]
        for labels in groups.of_constants.get(weight, ()):
            if labels.axes == (axis,) and value.shape[axis] > 1:
                found.append(Reader(node=node, weight=value, axis=axis, units=labels.ids))
    return found


def input_power(
    exported: ExportedProgram, readers: Sequence[Reader], samples: Sequence[Sample], progress: Progress
) -> list[torch.Tensor]:
    """Return the mean square of each channel that a reader's weight tells apart, (C,) for each reader."""
    found = [torch.zeros(len(reader.units)) for reader in readers]

    def look(index: int, value: torch.Tensor) -> None:
        reader = readers[index]
        axis = value.dim() - 1 if reader.node.target is LINEAR else 1
        power = value.square().movedim(axis, 0).flatten(1).mean(1)
        found[index] += power.reshape(-1, len(reader.units)).sum(0) / len(samples)

    _visit(exported, readers, samples, progress, look)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Moments of the rows that a weight meets; of a convolution in groups, the mean over its groups.

    Attributes:
        count: Of the rows that were seen.
        power: The mean squares, (length,), float64.
        covariance: (length, length), float64.
    """

    count: int
    power: torch.Tensor
    covariance: torch.Tensor

    def shrunk(self) -> torch.Tensor:
        """Return a covariance that few rows do not make singular.

        It is the posterior mean under an inverse Wishart prior around its own diagonal that counts for as
        many rows as they are long.
        """
        weight = len(self.power) / (len(self.power) + self.count)
        return self.covariance * (1 - weight) + torch.diag(self.covariance.diagonal()) * weight


def input_moments(
    exported: ExportedProgram, readers: Sequence[Reader], samples: Sequence[Sample], progress: Progress
) -> list[Moments | None]:
    """Return the moments of what each reader's weight meets; None where `rows_read` gives no rows."""
    sums: list[tuple[int, torch.Tensor, torch.Tensor]] = [(0, torch.zeros(1), torch.zeros(1))] * len(readers)
    generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact

    def look(index: int, value: torch.Tensor) -> None:
        node, weight = readers[index].node, readers[index].weight
        rows = rows_read(node, value, tuple(weight.shape[2:]))
        if rows is None:
            return
        rows = rows[torch.randperm(len(rows), generator=generator)[:_POSITIONS]].flatten(0, 1)
        count, total, second = sums[index]
        sums[index] = count + len(rows), total + rows.sum(0).double(), second + (rows.T @ rows).double()

    _visit(exported, readers, samples, progress, look)
    return [_moments(*item) if item[0] else None for item in sums]


def _moments(count: int, total: torch.Tensor, second: torch.Tensor) -> Moments:
    mean, second = total / count, second / count
    return Moments(count=count, power=second.diagonal(), covariance=second - mean[:, None] * mean)


def _visit(
    exported: ExportedProgram,
    readers: Sequence[Reader],
    samples: Sequence[Sample],
    progress: Progress,
    look: Callable[[int, torch.Tensor], None],
) -> None:
    """Run a program on samples, and show what each reader reads."""
    for sample in samples:
        values = given_values(exported, sample.inputs)
        indices = {reader.node: index for index, reader in enumerate(readers)}
        with torch.no_grad():
            for node in exported.graph.nodes:
                if node.op != "call_function":
                    continue
                if node in indices:
                    look(indices[node], values[operand(node)])
                values[node] = computed_value(node, values)
        progress.advance()
