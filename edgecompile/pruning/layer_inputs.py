"""What layers read on the samples: the power of each channel, the second moments of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.errors import NotFiniteValueError
from edgecompile.graph_edit import operand, operator_name, source_line
from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED, groups_of, rows_read
from edgecompile.progress import Progress
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import computed_value, given_values

LAYERS = (*CONVOLUTIONS, *TRANSPOSED, LINEAR)
# Positions of a sample that are used, drawn at random: neighbours say much the same.
POSITIONS = 256
# Rows longer than this are not looked at together: memory grows with the square of the length, and the time
# of what is computed from them with the cube.
LONGEST_ROW = 5000


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

    @property
    def row_units(self) -> torch.Tensor:
        """The unit of each channel of a row, as `rows_read` gives them; all groups have the same."""
        groups = groups_of(self.node) if self.node.target in TRANSPOSED else 1
        return self.units[: len(self.units) // groups]

    @property
    def taps(self) -> int:
        """How many elements of a row each channel has."""
        return 1 if self.node.target in TRANSPOSED else self.weight[0, 0].numel()

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
            if labels.axes == (axis,) and value.shape[axis] > 1 and _sums_over(node, labels.ids):
                found.append(Reader(node=node, weight=value, axis=axis, units=labels.ids))
    return found


def _sums_over(node: Node, units: torch.Tensor) -> bool:
    """Tell whether all groups of a transposed convolution read the same units: else it passes them on."""
    if node.target not in TRANSPOSED:
        return True
    of_groups = units.reshape(groups_of(node), -1)
    return bool((of_groups == of_groups[0]).all())


def input_power(
    exported: ExportedProgram, readers: Sequence[Reader], samples: Sequence[Sample], progress: Progress
) -> list[torch.Tensor]:
    """Return the mean square of each channel that a reader's weight tells apart, (C,) for each reader.

    Raises:
        NotFiniteValueError: A layer reads NaN or infinity.
    """
    found = [torch.zeros(len(reader.units), dtype=torch.float64) for reader in readers]

    def look(index: int, value: torch.Tensor) -> None:
        reader = readers[index]
        axis = value.dim() - 1 if reader.node.target is LINEAR else 1
        power = value.double().square().movedim(axis, 0).flatten(1).mean(1)
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
    """Return the moments of what each reader's weight meets; None where rows are too long, or there are none.

    Raises:
        NotFiniteValueError: A layer reads NaN or infinity.
    """
    sums: list[_Sums | None] = [None] * len(readers)
    generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact

    def look(index: int, value: torch.Tensor) -> None:
        node, weight = readers[index].node, readers[index].weight
        if len(readers[index].row_units) * readers[index].taps > LONGEST_ROW:
            return
        rows = rows_read(node, value, tuple(weight.shape[2:]))
        if rows is None:
            return
        rows = rows[torch.randperm(len(rows), generator=generator)[:POSITIONS]].flatten(0, 1)
        own = sums[index] = sums[index] or _Sums(rows)
        own.add(rows)

    _visit(exported, readers, samples, progress, look)
    found: list[Moments | None] = []
    for item in sums:
        found.append(None if item is None else item.moments())
    return found


class _Sums:
    """Sums over rows and their products, from near their mean: large means would leave no digits."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.count, self.near = 0, rows.mean(0)
        length = rows.shape[1]
        self.first = torch.zeros(length, dtype=torch.float64)
        self.second = torch.zeros(length, length, dtype=torch.float64)

    def add(self, rows: torch.Tensor) -> None:
        """Take rows into account, (positions, length)."""
        rows = rows - self.near
        self.count += len(rows)
        self.first += rows.sum(0)
        self.second += rows.T @ rows

    def moments(self) -> Moments:
        """Return the moments of all rows; this cannot be used any more."""
        mean = self.first / self.count
        covariance = self.second.div_(self.count).sub_(mean[:, None] * mean)
        power = covariance.diagonal() + (self.near + mean).square()
        return Moments(count=self.count, power=power, covariance=covariance)


def _visit(
    exported: ExportedProgram,
    readers: Sequence[Reader],
    samples: Sequence[Sample],
    progress: Progress,
    look: Callable[[int, torch.Tensor], None],
) -> None:
    """Run a program on samples, and show what each reader reads."""
    indices = {reader.node: index for index, reader in enumerate(readers)}
    for sample in samples:
        values = given_values(exported, sample.inputs)
        with torch.no_grad():
            for node in exported.graph.nodes:
                if node.op != "call_function":
                    continue
                if node in indices:
                    read = values[operand(node)]
                    if not bool(read.isfinite().all()):
                        raise _not_finite(node)
                    look(indices[node], read)
                values[node] = computed_value(node, values)
        progress.advance()


def _not_finite(node: Node) -> NotFiniteValueError:
    return NotFiniteValueError(
        f"{operator_name(node)} ({node.name}) reads NaN or infinity in the calibration",
        where=source_line(node),
        hint="bound what goes into a logarithm, root or division; or leave a sample out that is not typical",
    )
