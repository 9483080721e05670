"""Which channels of a program can only be removed together, and which have to stay.

A unit is the smallest thing that can be removed: a channel of a convolution with the filter of the depthwise
convolution after it, all channels that a residual connection adds to each other, a head of attention. A group
is all units that the same layers make. This is the coupling of Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning", arXiv:2301.12900, found here on the graph of `torch.export`, index by index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import module_name, output_nodes, source_line
from edgecompile.pruning import rules_along_axes, rules_of_layers, rules_of_shapes
from edgecompile.pruning.channel_search import ChannelSearch
from edgecompile.pruning.labels import Labels

_RULES = rules_of_shapes.RULES | rules_along_axes.RULES | rules_of_layers.RULES


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroup:
    """Units that the same layers make.

    Attributes:
        name: The first of the layers.
        layers: Those that make the units' channels.
        widths: How many channels each of them makes.
        units: The numbers of those that can be removed.
        held: The numbers of those that have to stay.
        reasons: Why, in sentences; empty where none has to.
        where: The user's source line of the first layer.
    """

    name: str
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    units: torch.Tensor
    held: torch.Tensor
    reasons: tuple[str, ...]
    where: str

    @property
    def kept(self) -> int:
        """How many units have to stay."""
        return len(self.held)

    @property
    def all_units(self) -> torch.Tensor:
        """The numbers of all units."""
        return torch.cat([self.units, self.held])


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelGroups:
    """The units of a program.

    Attributes:
        count: How many units there are; they are numbered from 0.
        of_values: By node, which unit each slice of a value belongs to.
        of_constants: The same for parameters and buffers; one that two axes index has two labels.
        groups: In the order of their first layers.
    """

    count: int
    of_values: Mapping[Node, Labels]
    of_constants: Mapping[Node, tuple[Labels, ...]]
    groups: tuple[ChannelGroup, ...]

    @property
    def removable(self) -> torch.Tensor:
        """Of each unit whether it can be removed, (count,), bool."""
        found = torch.zeros(self.count, dtype=torch.bool)
        for group in self.groups:
            found[group.units] = True
        return found


def find_groups(exported: ExportedProgram) -> ChannelGroups:
    """Find the groups of a program in inference mode; what is not understood keeps its channels whole."""
    search = ChannelSearch(exported)
    search.run(exported.graph, _RULES, rules_of_shapes.not_understood)
    for node in output_nodes(exported.graph):
        search.hold(search.of(node), "they are an output of the model")
    search.settle_blocks()
    roots, units = torch.unique(search.roots(), return_inverse=True)
    return ChannelGroups(
        count=len(roots),
        of_values={node: _numbered(labels, units) for node, labels in search.of_values.items()},
        of_constants={
            node: tuple(_numbered(labels, units) for labels in several)
            for node, several in search.of_constants.items()
        },
        groups=_groups(search, units, len(roots)),
    )


def layer_name(node: Node) -> str:
    """Return the module that a layer is of, `features.3.conv.0`, or the node's name."""
    return module_name(node) or node.name


def _numbered(labels: Labels, units: torch.Tensor) -> Labels:
    return Labels(axes=labels.axes, ids=units[labels.ids])


def _groups(search: ChannelSearch, units: torch.Tensor, count: int) -> tuple[ChannelGroup, ...]:
    reasons: dict[int, str] = {}
    for label, reason in search.held.items():
        reasons.setdefault(int(units[label]), reason)
    held = torch.zeros(count, dtype=torch.bool)
    held[list(reasons)] = True
    found = []
    for layers in _joined([units[ids] for _, ids in search.begun]):
        begun = [search.begun[index] for index in layers]
        own = torch.unique(torch.cat([units[ids] for _, ids in begun]))
        first = begun[0][0]
        found.append(
            ChannelGroup(
                name=layer_name(first),
                layers=tuple(layer_name(node) for node, _ in begun),
                widths=tuple(len(ids) for _, ids in begun),
                units=own[~held[own]],
                held=own[held[own]],
                reasons=tuple(dict.fromkeys(reasons[unit] for unit in own[held[own]].tolist())),
                where=source_line(first),
            )
        )
    return tuple(found)


def _joined(sets: list[torch.Tensor]) -> list[list[int]]:
    """Return which of several sets of units go together, since they have units in common."""
    owner: dict[int, int] = {}
    parent = list(range(len(sets)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for index, units in enumerate(sets):
        for unit in torch.unique(units).tolist():
            other = root(owner.setdefault(unit, index))
            mine = root(index)
            parent[max(mine, other)] = min(mine, other)
    joined: dict[int, list[int]] = {}
    for index in range(len(sets)):
        joined.setdefault(root(index), []).append(index)
    return list(joined.values())
