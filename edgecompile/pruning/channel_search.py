"""The search for channels that go together: labels for every value, and which of them are one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import shape_of, user_input_names
from edgecompile.pruning.labels import Labels, expanded, simplified
from edgecompile.quantize.layers import constants_of

aten = torch.ops.aten


class NotUnderstoodError(Exception):
    """Raised by a rule: what its operator reads stays whole, for this reason."""


Rule = Callable[["ChannelSearch", Node], Labels | None]


class ChannelSearch:
    """What is known while the rules go through a graph.

    Attributes:
        constants: The values of parameters, buffers and constants, by their node's name.
        of_values: The labels of each value that has some.
        of_parts: The same for each of several results, of a split.
        of_constants: The labels of each constant: those of one axis or several that belong together.
        held: Why a label has to stay.
        begun: For each layer that begins channels of its own, its node and its labels, flat.
        blocks: Labels along several axes, of which whole rows or columns have to stay.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        self.constants = constants_of(exported)
        self.of_values: dict[Node, Labels] = {}
        self.of_parts: dict[Node, list[Labels | None]] = {}
        self.of_constants: dict[Node, list[Labels]] = {}
        self.held: dict[int, str] = {}
        self.begun: list[tuple[Node, torch.Tensor]] = []
        self.blocks: list[torch.Tensor] = []
        self._inputs = frozenset(user_input_names(exported))
        self._parents: list[int] = []

    # --- labels ---------------------------------------------------------------------------------

    def of(self, node: object) -> Labels | None:
        """Return the labels of an argument."""
        return self.of_values.get(node) if isinstance(node, Node) else None

    def begin(self, node: Node, count: int) -> torch.Tensor:
        """Return new labels, (count,), for the channels that a layer makes."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        ids = torch.arange(first, first + count)
        self.begun.append((node, ids))
        return ids

    def unite(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Let labels be one, element by element."""
        pairs = torch.unique(torch.stack([one.reshape(-1), other.reshape(-1)], 1), dim=0)
        for left, right in pairs.tolist():
            first, second = self.root(left), self.root(right)
            if first != second:
                self._parents[max(first, second)] = min(first, second)

    def unite_along(self, ids: torch.Tensor, place: int) -> torch.Tensor:
        """Let labels be one along an axis of theirs, and return them without it."""
        first = ids.narrow(place, 0, 1)
        self.unite(ids, first.expand_as(ids))
        return first.squeeze(place)

    def hold(self, labels: Labels | torch.Tensor | None, reason: str) -> None:
        """Keep channels whole."""
        if labels is None:
            return
        ids = labels.ids if isinstance(labels, Labels) else labels
        for label in torch.unique(ids).tolist():
            self.held.setdefault(label, reason)

    def root(self, label: int) -> int:
        """Return the label that stands for all that are one with this."""
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label

    def roots(self) -> torch.Tensor:
        """Return the label that stands for each, (labels,)."""
        return torch.tensor([self.root(label) for label in range(len(self._parents))], dtype=torch.int64)

    # --- constants ------------------------------------------------------------------------------

    def constant(self, node: object) -> torch.Tensor | None:
        """Return the value of a constant's node."""
        return self.constants.get(node.name) if isinstance(node, Node) else None

    def label_constant(self, node: object, axis: int, ids: torch.Tensor | None) -> None:
        """Say that a constant's axis has these labels, (size,); two readers of it must agree."""
        if isinstance(node, Node) and ids is not None:
            self._label(node, Labels(axes=(axis,), ids=ids))

    def adopt(self, node: Node, labels: Labels) -> bool:
        """Give labels to a value that constants alone make, where it is one."""
        if self.constant(node) is not None:
            self._label(node, labels)
            return True
        source = node.args[0] if node.args else None
        if node.op != "call_function" or not isinstance(source, Node) or tensor_operands(node) != [source]:
            return False
        before, after = shape_of(source), shape_of(node)
        name = getattr(node.target, "overloadpacket", None)
        if name not in (aten.expand, aten.repeat, aten.clone, aten.to):
            return False
        shift = len(after) - len(before)
        axes = [axis - shift for axis in labels.axes]
        if any(axis < 0 or before[axis] != after[axis + shift] for axis in axes):
            return False
        if not self.adopt(source, Labels(axes=tuple(axes), ids=labels.ids)):
            return False
        self.of_values[node] = labels
        return True

    def _label(self, node: Node, labels: Labels) -> None:
        for known in self.of_constants.get(node, []):
            if known.axes == labels.axes:
                self.unite(known.ids, labels.ids)
                return
            if set(known.axes) & set(labels.axes):
                raise NotUnderstoodError("a constant is read in several ways")
        self.of_constants.setdefault(node, []).append(labels)

    # --- the walk -------------------------------------------------------------------------------

    def run(self, graph: torch.fx.Graph, rules: dict[object, Rule], fallback: Rule) -> None:
        """Go through a graph in order."""
        for node in graph.nodes:
            if node.op != "call_function" or not _is_value(node.meta.get("val")):
                continue
            self._apply(node, rules.get(node.target, fallback))

    def _apply(self, node: Node, rule: Rule) -> None:
        begun = len(self.begun)
        try:
            labels = rule(self, node)
        except NotUnderstoodError as reason:
            for _, ids in self.begun[begun:]:
                self.hold(ids, str(reason))
            for source in node.all_input_nodes:
                for read in (self.of(source), *self.of_parts.get(source, ())):
                    self.hold(read, str(reason))
            return
        if labels is not None:
            labels = simplified(labels)
            self.of_values[node] = labels
            if len(labels.axes) > 1:
                self.blocks.append(labels.ids)

    def settle_blocks(self) -> None:
        """Let labels along several axes be one along all but one, so that what stays is a block.

        Where two axes are left, the longer one stays free: more can be chosen there.
        """
        for ids in self.blocks:
            roots = self.roots()[ids]
            places = [
                place for place in range(roots.dim()) if not bool((roots == roots.narrow(place, 0, 1)).all())
            ]
            places.sort(key=lambda place: ids.shape[place])
            for place in places[:-1]:
                self.unite(ids, ids.narrow(place, 0, 1).expand_as(ids))

    def require(self, condition: bool, reason: str) -> None:
        """Raise that a rule does not understand, unless a condition holds."""
        if not condition:
            raise NotUnderstoodError(reason)


def tensor_operands(node: Node) -> list[Node]:
    """Return the values that an operator reads, without sizes of a dynamic batch."""
    return [operand for operand in node.all_input_nodes if _is_value(operand.meta.get("val"))]


def broadcast(search: ChannelSearch, node: Node, operands: Sequence[Node]) -> Labels | None:
    """Let the channels of operands that are broadcast be one, and return those of the result."""
    rank = len(shape_of(node))
    shape = shape_of(node)
    labelled = []
    for operand in operands:
        labels = search.of(operand)
        if labels is None:
            continue
        shift = rank - len(shape_of(operand))
        moved = labels.moved({axis: axis + shift for axis in labels.axes})
        for axis, size in moved.sizes().items():
            search.require(shape[axis] == size, "a single channel meets all channels of another value")
        labelled.append(moved)
    if not labelled:
        return None
    axes = sorted({axis for labels in labelled for axis in labels.axes})
    sizes = [size for axis in axes for size in [shape[axis]] if isinstance(size, int)]
    search.require(len(sizes) == len(axes), "channels meet an axis of dynamic size")
    whole = [expanded(labels, axes, sizes) for labels in labelled]
    for other in whole[1:]:
        search.unite(whole[0], other)
    result = Labels(axes=tuple(axes), ids=whole[0])
    for operand in operands:
        if search.of(operand) is None:
            _adopt_broadcast(search, operand, simplified(result), rank)
    return result


def _adopt_broadcast(search: ChannelSearch, operand: Node, labels: Labels, rank: int) -> None:
    """Label what has channels and no labels yet: a constant, else a value that is kept whole."""
    shift, shape = rank - len(shape_of(operand)), shape_of(operand)
    own = [axis for axis in labels.axes if axis >= shift and shape[axis - shift] != 1]
    if not own:
        return
    ids = labels.ids
    for place in reversed(range(len(labels.axes))):
        if labels.axes[place] not in own:  # one constant for all along this axis
            ids = search.unite_along(ids, place)
    moved = Labels(axes=tuple(axis - shift for axis in own), ids=ids)
    if not search.adopt(operand, moved):
        raise NotUnderstoodError(f"its channels meet those of {operand.name}, which are kept whole")


def _is_value(value: object) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, torch.Tensor) for item in several)
