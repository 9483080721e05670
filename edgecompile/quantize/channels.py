"""Which channels of a program's values are one: what scales one of them must scale them all.

Every value gets an id for each of its channels. Operators that treat each channel alone pass the ids on, an
addition makes those of its two sides one, and a layer with weights begins new ones: its weights can take up
any scale, the rows for its output, the columns for its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import output_nodes, user_input_names
from edgecompile.quantize.layers import WEIGHTED, constants_of

aten = torch.ops.aten

# What gives `s * f(x)` for `s * x`, s > 0, and each channel alone.
_HOMOGENEOUS = (
    aten.relu.default,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Channels:
    """The channels of a program.

    Attributes:
        ids: Of each value that has a known axis of channels, the ids along it, (C,), int64.
        axis: That axis.
        count: One more than the greatest id.
        held: (count,), bool: the ids whose scale must stay: those of inputs, of outputs, and of what an
            operator reads that is not understood.
        clipped: The clamps from 0 to a bound, each with the bound: a channel that grows is clipped earlier.
    """

    ids: dict[Node, torch.Tensor]
    axis: dict[Node, int]
    count: int
    held: torch.Tensor
    clipped: dict[Node, float]


def channels_of(exported: ExportedProgram) -> Channels:
    """Find the channels of a program after the passes."""
    return _Search(exported).run()


class _Search:
    def __init__(self, exported: ExportedProgram) -> None:
        self._exported = exported
        self._constants = constants_of(exported)
        self._parents: list[int] = []
        self._held: set[int] = set()
        self._clipped: dict[Node, float] = {}
        self.ids: dict[Node, torch.Tensor] = {}
        self.axis: dict[Node, int] = {}

    def run(self) -> Channels:
        inputs = frozenset(user_input_names(self._exported))
        for node in self._exported.graph.nodes:
            if node.op == "placeholder" and node.name in inputs:
                self._begin_held(node)
            if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor):
                continue
            rule = _RULES.get(node.target)
            if rule is None or not rule(self, node):
                self._hold_all(node)
        for node in output_nodes(self._exported.graph):
            self.hold(node)
        roots = torch.tensor([self._root(index) for index in range(len(self._parents))], dtype=torch.int64)
        held = torch.zeros(len(self._parents), dtype=torch.bool)
        held[[self._root(index) for index in self._held]] = True
        return Channels(
            ids={node: roots[ids] for node, ids in self.ids.items()},
            axis=self.axis,
            count=len(self._parents),
            held=held,
            clipped=self._clipped,
        )

    def layer(self, node: Node) -> bool:
        """Convolution or linear with constant weights: new channels, whatever its input's are."""
        source, weight = node.args[0], self._constant(node.args[1])
        axis = -1 if node.target is aten.linear.default else 1
        if weight is None or source not in self.ids or self._axis_from_front(source, axis) is None:
            return False
        if len(node.args) > 2 and node.args[2] is not None and self._constant(node.args[2]) is None:
            return False
        self._begin(node, axis % node.meta["val"].dim(), weight.shape[0])
        return True

    def same(self, node: Node) -> bool:
        """An operator that treats each channel alone and gives `s * f(x)` for `s * x`."""
        return self._take(node, node.args[0])

    def mean(self, node: Node) -> bool:
        """A mean over other axes than the channels', which keeps them."""
        source = node.args[0]
        axes, keeps = node.args[1], len(node.args) > 2 and bool(node.args[2])
        if source not in self.ids or not isinstance(axes, list | tuple) or not keeps:
            return False
        rank = source.meta["val"].dim()  # type: ignore[union-attr]
        return self.axis[source] not in {int(axis) % rank for axis in axes} and self._take(node, source)  # type: ignore[arg-type, index]

    def clamp(self, node: Node) -> bool:
        """A clamp from 0 to a bound: as a relu, below the bound."""
        low, high = node.args[1:3] if len(node.args) > 2 else (-1.0, 1.0)
        if low != 0 or not isinstance(high, int | float) or not 0 < high < math.inf:
            return False
        if not self._take(node, node.args[0]):
            return False
        self._clipped[node] = float(high)
        return True

    def pad(self, node: Node) -> bool:
        """Padding with zeros of other axes than the channels'."""
        source, pads = node.args[0], node.args[1]
        value = node.args[2] if len(node.args) > 2 else 0.0
        if value != 0 or source not in self.ids or not isinstance(pads, list | tuple):
            return False
        rank = source.meta["val"].dim()  # type: ignore[union-attr]
        padded = range(rank - len(pads) // 2, rank)
        return self.axis[source] not in padded and self._take(node, source)  # type: ignore[index]

    def add(self, node: Node) -> bool:
        """An addition of two values of one shape: their channels are one."""
        left, right = node.args[0], node.args[1]
        if left not in self.ids or right not in self.ids or node.kwargs.get("alpha", 1) != 1:
            return False
        if self.axis[left] != self.axis[right] or left.meta["val"].shape != right.meta["val"].shape:  # type: ignore[index, union-attr]
            return False
        for one, other in zip(self.ids[left].tolist(), self.ids[right].tolist(), strict=True):  # type: ignore[index]
            self._parents[self._root(one)] = self._root(other)
        return self._take(node, left)

    def multiply(self, node: Node) -> bool:
        """A product with a gate, from 0 to 1: the gate keeps its scale, the other side passes on its own."""
        left, right = node.args[0], node.args[1]
        for value, gate in ((left, right), (right, left)):
            if isinstance(gate, Node) and gate is not value and _is_gate(gate) and value in self.ids:
                if value.meta["val"].shape != node.meta["val"].shape:  # type: ignore[union-attr]
                    continue
                self.hold(gate)
                return self._take(node, value)
        return False

    def concatenate(self, node: Node) -> bool:
        """A concatenation along the channels."""
        sources, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
        known = [source for source in sources if isinstance(source, Node) and source in self.ids]  # type: ignore[union-attr]
        if len(known) != len(sources) or not isinstance(axis, int):  # type: ignore[arg-type]
            return False
        if {self.axis[source] for source in known} != {axis % node.meta["val"].dim()}:
            return False
        self.ids[node] = torch.cat([self.ids[source] for source in known])
        self.axis[node] = self.axis[known[0]]
        return True

    def view(self, node: Node) -> bool:
        """A view that keeps the channels, or flattens them with all axes after them."""
        source = node.args[0]
        if source not in self.ids:
            return False
        axis, before, after = self.axis[source], source.meta["val"].shape, node.meta["val"].shape  # type: ignore[index, union-attr]
        channels = len(self.ids[source])  # type: ignore[index]
        if axis == len(before) - 1 and after[-1] == channels:
            return self._take(node, source, axis=len(after) - 1)
        if axis >= len(after) or tuple(before[:axis]) != tuple(after[:axis]):
            return False
        if after[axis] == channels:
            return self._take(node, source)
        rest = before[axis + 1 :]
        if not all(isinstance(size, int) for size in rest) or after[axis] != channels * math.prod(rest):
            return False
        self.ids[node] = self.ids[source].repeat_interleave(math.prod(rest))  # type: ignore[index]
        self.axis[node] = axis
        return True

    def permute(self, node: Node) -> bool:
        """A permutation moves the axis."""
        source, axes = node.args[0], node.args[1]
        if source not in self.ids or not isinstance(axes, list | tuple):
            return False
        rank = len(axes)
        moved = [int(axis) % rank for axis in axes].index(self.axis[source])  # type: ignore[arg-type, index]
        return self._take(node, source, axis=moved)

    def hold(self, node: Node) -> None:
        """Keep the scale of a value's channels."""
        if node in self.ids:
            self._held.update(self.ids[node].tolist())

    def _hold_all(self, node: Node) -> None:
        for source in node.all_input_nodes:
            self.hold(source)
        self._begin_held(node)

    def _begin_held(self, node: Node) -> None:
        """Give a value channels of its own that keep their scale, where it can have an axis of them."""
        shape = node.meta["val"].shape
        if len(shape) < 2 or node.meta["val"].dtype != torch.float32:
            return
        axis = 1 if len(shape) == 4 else len(shape) - 1
        if not isinstance(shape[axis], int):
            return
        self._begin(node, axis, shape[axis])
        self.hold(node)

    def _begin(self, node: Node, axis: int, count: int) -> None:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        self.ids[node] = torch.arange(first, first + count)
        self.axis[node] = axis

    def _take(self, node: Node, source: object, axis: int | None = None) -> bool:
        if source not in self.ids:
            return False
        self.ids[node] = self.ids[source]
        self.axis[node] = self.axis[source] if axis is None else axis
        return True

    def _axis_from_front(self, source: object, axis: int) -> int | None:
        assert isinstance(source, Node)
        wanted = axis % source.meta["val"].dim()
        return wanted if self.axis[source] == wanted else None

    def _constant(self, node: object) -> torch.Tensor | None:
        return self._constants.get(node.name) if isinstance(node, Node) else None

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index


def _is_gate(node: Node) -> bool:
    bounds = node.args[1:3]
    return node.target in (aten.sigmoid.default, aten.hardsigmoid.default) or (
        node.target is aten.hardtanh.default and bounds == (0.0, 1.0)
    )


_Rule = Callable[[_Search, Node], bool]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(WEIGHTED, _Search.layer),
    **dict.fromkeys(_HOMOGENEOUS, _Search.same),
    aten.mean.dim: _Search.mean,
    aten.hardtanh.default: _Search.clamp,
    aten.constant_pad_nd.default: _Search.pad,
    aten.add.Tensor: _Search.add,
    aten.mul.Tensor: _Search.multiply,
    aten.cat.default: _Search.concatenate,
    aten.view.default: _Search.view,
    aten.reshape.default: _Search.view,
    aten.permute.default: _Search.permute,
}
