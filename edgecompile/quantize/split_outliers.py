"""Outlier channel splitting: a channel with a few far too large weights is computed twice, and read by half.

The largest weight of a row sets the scale of all the others. Where it is alone, the channel that it reads is
taken twice with half of the weight, which is the same in float, and the row's scale falls (Zhao et al. 2019,
"Improving Neural Network Quantization without Retraining using Outlier Channel Splitting", section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.layer_rows import groups_of
from edgecompile.pruning.channel_groups import ChannelGroups, find_groups
from edgecompile.pruning.costs import Term, terms_of, total
from edgecompile.pruning.labels import Labels
from edgecompile.pruning.layer_inputs import Reader, readers_of
from edgecompile.pruning.remove_channels import with_units
from edgecompile.quantize.channel_statistics import ChannelStatistics
from edgecompile.quantize.channels import IN_FLOAT
from edgecompile.quantize.layers import CLAMPS, WEIGHTED, constants_of
from edgecompile.target import QuantizationSettings

aten = torch.ops.aten

# All that a unit goes through must treat each channel alone, or sum over channels with a weight of its own.
_EACH_ALONE = (
    *CLAMPS,
    *IN_FLOAT,
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.mean.dim,
    aten.cat.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.constant_pad_nd.default,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
)
# A split that adds 1 % of multiply-accumulates or parameters must take so many times 1 % from the noise left.
_WORTH = 10.0
# Of the predicted noise, 1 dB: compensated rounding leaves less of the weights' noise than is predicted, and
# MiniLM, for which 0.4 dB were predicted with 10 channels, gained nothing.
_LEAST_GAIN = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """The rows of a reader's weight; all (rows, columns) but the last.

    Attributes:
        units: Of each column, (columns,).
        magnitude: The greatest absolute weight of each row and column.
        noise: What rounding a row adds to the outputs, for a greatest weight of 1, (rows,).
    """

    units: torch.Tensor
    magnitude: torch.Tensor
    noise: torch.Tensor

    def gain(self, counts: torch.Tensor) -> torch.Tensor:
        """Return by how much the noise falls if each row's largest weight is split once more, (rows,)."""
        by_copy = self.magnitude / counts[self.units]
        (first, second), places = by_copy.topk(2, dim=1).values.unbind(1), self.largest(counts)
        times = counts[self.units[places]]
        return self.noise * (first.square() - torch.maximum(first * times / (times + 1), second).square())

    def largest(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the column of the largest weight of each row, (rows,)."""
        return (self.magnitude / counts[self.units]).argmax(1)

    def total(self, counts: torch.Tensor) -> float:
        """Return the noise of all rows."""
        return float((self.noise * (self.magnitude / counts[self.units]).amax(1).square()).sum())


def find_counts(
    exported: ExportedProgram,
    statistics: Mapping[str, ChannelStatistics],
    noise: float,
    settings: QuantizationSettings,
) -> torch.Tensor | None:
    """Choose how often each unit of channels is computed, one after another: the most gain for its cost.

    Args:
        exported: The program, its channels fit for a range.
        statistics: By the names of its nodes.
        noise: Predicted for the whole program as it is, relative to the outputs' power.
        settings: Say how many multiply-accumulates and parameters may be added.

    Returns:
        (units,), int64, in the order of `find_groups`; None where nothing is worth it.
    """
    groups = find_groups(exported)
    readers = [reader for reader in readers_of(exported, groups) if _sums_all(reader)]
    rows = [
        _rows(reader, statistics, settings.weight_limit)
        for reader in readers
        if _is_measured(reader, statistics) and operand(reader.node).name in statistics
    ]
    before = sum(own.total(torch.ones(groups.count)) for own in rows)
    if not 0.75 * before > _LEAST_GAIN * noise:  # not even with half of every scale
        return None
    free = _can_repeat(exported, groups)
    counts = torch.ones(groups.count, dtype=torch.int64)
    measures = [terms_of(exported, groups, measure) for measure in ("macs", "parameters")]
    whole = [total(terms, counts) for terms in measures]
    shares = [_share(terms, groups.count) for terms in measures]
    cost = torch.stack(shares).amax(0)
    gains = [own.gain(counts) for own in rows]
    while True:
        by_unit = torch.zeros(groups.count)
        for own, gain in zip(rows, gains, strict=True):
            by_unit.index_add_(0, own.units[own.largest(counts)], gain)
        left = max(noise - before, 0.0) + sum(own.total(counts) for own in rows)
        worth = by_unit * free / left - _WORTH * cost
        best = int(worth.argmax())
        if not worth[best] > 0:
            break
        counts[best] += 1
        sizes = [total(terms, counts) / size for terms, size in zip(measures, whole, strict=True)]
        if max(sizes) > 1 + settings.channel_splitting:
            counts[best] -= 1
            break
        for index, own in enumerate(rows):
            if bool((own.units == best).any()):
                gains[index] = own.gain(counts)
    saved = before - sum(own.total(counts) for own in rows)
    return counts if saved >= _LEAST_GAIN * noise else None


def repeat_channels(exported: ExportedProgram, counts: torch.Tensor) -> ExportedProgram:
    """Return the program with some channels computed several times, each read by its part of the weight.

    Before: `x -> conv2d(w1, b1) -> relu -> conv2d(w2, b2)`                       w1 (K, C, ..), w2 (L, K, ..)
    After:  `x -> conv2d(w1[i], b1[i]) -> relu -> conv2d(w2[:, i] / n[i], b2)`    i (K + splits,)

    Args:
        exported: The program.
        counts: How often each unit is wanted, (units,), 1 or more.
    """
    groups = find_groups(exported)
    editor = ProgramEditor(exported)
    layers = {node.name: node for node in editor.calls(*WEIGHTED)}
    for reader in readers_of(exported, groups):
        times = counts[reader.units]
        if bool((times > 1).any()):
            shape = [1, -1, *[1] * (reader.weight.dim() - 2)]
            weight = operand(layers[reader.node.name], 1)
            editor.set_constant(weight, reader.weight / times.reshape(shape))
    return with_units(editor.finish(), groups, counts)


def repeated_indices(exported: ExportedProgram, counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return for each value whose channels are repeated which of the old ones its channels are, by name."""
    found = {}
    for node, labels in find_groups(exported).of_values.items():
        if bool((counts[labels.ids] > 1).any()):
            (found[node.name],) = labels.kept(counts).values()
    return found


def _is_measured(reader: Reader, statistics: Mapping[str, ChannelStatistics]) -> bool:
    """Tell whether a layer's rows are what was measured: else another axis was taken for its channels."""
    own = statistics.get(reader.node.name)
    return own is not None and len(own.sensitivity) == len(reader.weight)


def _sums_all(reader: Reader) -> bool:
    return reader.node.target in WEIGHTED and groups_of(reader.node) == 1


def _rows(reader: Reader, statistics: Mapping[str, ChannelStatistics], limit: int) -> _Rows:
    weight, source = reader.weight, statistics[operand(reader.node).name]
    # Each element of a row is rounded with a step of the largest / limit, and by itself.
    power = source.power.sum() * weight.shape[2:].numel() / (limit**2 * 12)
    magnitude = weight.abs().flatten(2).amax(2) if weight.dim() > 2 else weight.abs()
    return _Rows(
        units=reader.units, magnitude=magnitude, noise=statistics[reader.node.name].sensitivity * power
    )


def _share(terms: tuple[Term, ...], count: int) -> torch.Tensor:
    """Return what one more of each unit adds to a cost, (units,), as a share of all."""
    cost, whole = torch.zeros(count, dtype=torch.float64), sum(term.base for term in terms)
    for term in terms:
        for width in term.widths:
            cost.index_add_(0, width, torch.full((len(width),), term.base / len(width) / whole).double())
    return cost


def _can_repeat(exported: ExportedProgram, groups: ChannelGroups) -> torch.Tensor:
    """Tell which units can be there several times: (units,), bool.

    Those that can be removed, that stand once along a single axis of each value and constant, and that meet
    only operators that treat each channel alone, or sum over channels.
    """
    free = groups.removable.clone()
    constants = constants_of(exported)
    for node, labels in _all_labels(groups):
        shared = node.name in constants and len(node.users) > 1
        times = torch.bincount(labels.ids.flatten(), minlength=groups.count)
        free &= (times <= (1 if len(labels.axes) == 1 and not shared else 0)) | (times == 0)
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        own = _units_of(groups, node)
        for source in node.all_input_nodes:
            read = _units_of(groups, source)
            if read is not None and source.name not in constants and not _passes(node, own, read, groups):
                free[read] = False
        if own is not None and node.target not in (*_EACH_ALONE, *WEIGHTED):
            free[own] = False
    return free


def _passes(node: Node, own: torch.Tensor | None, read: torch.Tensor, groups: ChannelGroups) -> bool:
    """Tell whether an operator leaves the channels that it reads alone, or sums over them with weights."""
    if node.target in WEIGHTED:
        weight = operand(node, 1)
        summed = [labels for labels in groups.of_constants.get(weight, ()) if labels.axes == (1,)]
        is_depthwise = own is not None and len(own) == len(read) and bool((own == read).all())
        return is_depthwise or (groups_of(node) == 1 and len(summed) == 1)
    if node.target not in _EACH_ALONE:
        return False
    return own is not None and bool(torch.isin(read, own).all())


def _all_labels(groups: ChannelGroups) -> list[tuple[Node, Labels]]:
    several = [(node, labels) for node, found in groups.of_constants.items() for labels in found]
    return [*groups.of_values.items(), *several]


def _units_of(groups: ChannelGroups, node: Node) -> torch.Tensor | None:
    labels = groups.of_values.get(node)
    return None if labels is None else labels.ids.flatten()
