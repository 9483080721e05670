"""The surgery: a program without some of its units, all parameters and shapes smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.layer_rows import CONVOLUTIONS, TRANSPOSED, groups_of
from edgecompile.pruning.channel_groups import ChannelGroups
from edgecompile.pruning.labels import Labels
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.pruning.rules_of_layers import loses_groups, whole_groups
from edgecompile.pruning.rules_of_shapes import SPLITS, slice_of

aten = torch.ops.aten


def remove_channels(whole: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor) -> PrunedProgram:
    """Return the program with the units that stay.

    Args:
        whole: The program.
        groups: Its groups.
        keep: Of each unit, whether it stays, (units,), bool.
    """
    return PrunedProgram(whole=whole, groups=groups, keep=keep, exported=with_units(whole, groups, keep))


def with_units(whole: ExportedProgram, groups: ChannelGroups, counts: torch.Tensor) -> ExportedProgram:
    """Return the program with each unit as often as it is wanted, (units,): bool, or int."""
    return _Surgery(whole, groups, counts).run()


def remaining_groups(pruned: PrunedProgram) -> ChannelGroups:
    """Return the groups of a pruned program, its units numbered in the order that they had."""
    groups, keep = pruned.groups, pruned.keep
    numbers = keep.cumsum(0) - 1
    nodes = {node.name: node for node in pruned.exported.graph.nodes}

    def left(labels: Labels) -> Labels:
        ids = labels.ids
        for place, indices in enumerate(labels.kept(keep).values()):
            ids = ids.index_select(place, indices)
        return Labels(axes=labels.axes, ids=numbers[ids])

    return ChannelGroups(
        count=int(keep.sum()),
        of_values={nodes[node.name]: left(labels) for node, labels in groups.of_values.items()},
        of_constants={
            nodes[node.name]: tuple(left(labels) for labels in several)
            for node, several in groups.of_constants.items()
            if node.name in nodes
        },
        groups=tuple(
            replace(group, units=numbers[group.units[keep[group.units]]], held=numbers[group.held])
            for group in groups.groups
        ),
    )


class _Surgery:
    def __init__(self, exported: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor) -> None:
        self._editor = ProgramEditor(exported)
        self._keep = keep
        # The editor's graph is a copy, in which each node has its name.
        self._labels = {node.name: labels for node, labels in groups.of_values.items()}
        self._constants = {node.name: labels for node, labels in groups.of_constants.items()}

    def run(self) -> ExportedProgram:
        for node in self._editor.graph.find_nodes(op="placeholder"):
            value = self._editor.constant(node)
            if value is not None and node.name in self._constants:
                for labels in self._constants[node.name]:
                    for axis, indices in labels.kept(self._keep).items():
                        value = value.index_select(axis, indices)
                self._editor.set_constant(node, value)
        # What an argument was is read off the shapes before: they are all kept until the end.
        for node in self._editor.calls():
            rewrite = _REWRITES.get(node.target)
            if rewrite is not None:
                rewrite(self, node)
        self._editor.refresh()
        return self._editor.finish()

    def sized(self, node: Node) -> None:
        """A view or expansion whose sizes are written out."""
        labels = self._labels.get(node.name)
        if labels is None:
            return
        place, first = (2, _axis(node.args[1], operand(node))) if node.target is _UNFLATTEN else (1, 0)
        sizes = list(node.args[place])  # type: ignore[arg-type]
        for axis, indices in labels.kept(self._keep).items():
            if 0 <= axis - first < len(sizes) and sizes[axis - first] != -1:
                sizes[axis - first] = len(indices)
        node.update_arg(place, sizes)

    def squeezed(self, node: Node) -> None:
        """Only the axes that had one element go, not those that have one left."""
        shape = shape_of(operand(node))
        given = node.args[1] if len(node.args) > 1 else range(len(shape))
        listed = [given] if isinstance(given, int) else given
        assert isinstance(listed, list | tuple | range)
        axes = [_axis(axis, operand(node)) for axis in listed]
        node.target = aten.squeeze.dims
        node.args = (
            operand(node),
            [axis for axis in axes if isinstance(shape[axis], int) and shape[axis] == 1],
        )

    def parted(self, node: Node) -> None:
        """A split of a labelled axis: its parts get the sizes that stay."""
        source = self._labels.get(operand(node).name)
        axis = _axis(node.args[2] if len(node.args) > 2 else 0, operand(node))
        if source is None or not source.on(axis):
            return
        stays = torch.split(self._keep[source.ids], [result.shape[axis] for result in node.meta["val"]])
        node.target = aten.split_with_sizes.default
        node.args = (operand(node), [int(part.sum()) for part in stays], axis)

    def sliced(self, node: Node) -> None:
        """A slice of a labelled axis begins and ends where its channels do."""
        source = self._labels.get(operand(node).name)
        axis, start, end, step = slice_of(node)
        if source is None or not source.on(axis):
            return
        indices = source.kept(self._keep)[axis]
        place = int((indices < start).sum()), int((indices < end).sum())
        node.target = aten.slice.Tensor
        node.args = (operand(node), axis, *place, step)

    def convolved(self, node: Node) -> None:
        """A convolution in groups may have fewer of them."""
        groups = groups_of(node)
        if node.name not in self._labels or not loses_groups(node):
            return
        weight = self._editor.constant(node.args[1])
        assert weight is not None
        left = weight.shape[0] if node.target in CONVOLUTIONS else self._reads(node)
        before = (
            _integer(shape_of(node)[1])
            if node.target in CONVOLUTIONS
            else _integer(shape_of(operand(node))[1])
        )
        arguments = list(node.args)
        if len(arguments) > 6:
            arguments[6] = groups * left // before
            node.args = tuple(arguments)
        else:
            node.kwargs = {**node.kwargs, "groups": groups * left // before}

    def normalized(self, node: Node) -> None:
        """A layer norm over the channels that stay."""
        labels, shape = self._labels.get(node.name), list(node.args[1])  # type: ignore[arg-type]
        first = len(shape_of(node)) - len(shape)
        if labels is None:
            return
        for axis, indices in labels.kept(self._keep).items():
            if axis >= first:
                shape[axis - first] = len(indices)
        node.update_arg(1, shape)

    def normalized_in_groups(self, node: Node) -> None:
        """A group norm that loses whole groups."""
        labels = self._labels.get(node.name)
        if labels is None or not whole_groups(node):
            return
        channels = _integer(shape_of(node)[1])
        left = len(labels.kept(self._keep)[1])
        node.update_arg(1, _integer(node.args[1]) * left // channels)

    def _reads(self, node: Node) -> int:
        labels: Labels = self._labels[operand(node).name]
        return len(labels.kept(self._keep)[1])


def _axis(argument: object, of: Node) -> int:
    return _integer(argument) % len(shape_of(of))


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


_UNFLATTEN = aten.unflatten.int
_SIZED = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default, _UNFLATTEN)
_SQUEEZED = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
_REWRITES: dict[object, Callable[[_Surgery, Node], None]] = {
    **dict.fromkeys(_SIZED, _Surgery.sized),
    **dict.fromkeys(_SQUEEZED, _Surgery.squeezed),
    **dict.fromkeys(SPLITS, _Surgery.parted),
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), _Surgery.convolved),
    **dict.fromkeys((aten.layer_norm.default, aten.rms_norm.default), _Surgery.normalized),
    aten.group_norm.default: _Surgery.normalized_in_groups,
    aten.slice.Tensor: _Surgery.sliced,
    aten.narrow.default: _Surgery.sliced,
}
