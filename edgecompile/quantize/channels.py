"""Which channels of a program's values are one: what scales one of them must scale them all.

Every value gets an id for each of its channels. Operators that treat each channel alone pass the ids on, an
addition makes those of its two sides one, and a layer with weights begins new ones: its weights can take up
any scale, the rows for its output, the columns for its input. So does an activation function in float, beside
which factors can stand, and a norm over the channels, whose gamma and beta take up its output's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import output_nodes, user_input_names
from edgecompile.quantize.layers import WEIGHTED, constants_of

aten = torch.ops.aten

# What gives `s * f(x)` for `s * x`, s > 0, and each channel alone, but for those along the last two axes.
_OF_PICTURES = (
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
)
# What treats each element alone, in no way that a factor passes through, and stays in float: its input can be
# divided by one kind of factors before it, and its output multiplied by another after it.
IN_FLOAT = (
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.silu.default,
    aten.gelu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.elu.default,
)
# What mixes the channels, so that factors must be divided out before it, and then scales each by a gamma.
NORMS = (aten.layer_norm.default, aten.rms_norm.default, aten.group_norm.default)


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


def read_by_rows(node: Node, weight: torch.Tensor, of_input: torch.Tensor) -> torch.Tensor:
    """Return for each row of a layer what its columns read of an input's (C,), (K, C / groups)."""
    groups = node.args[6] if len(node.args) > 6 else 1
    assert isinstance(groups, int)
    return of_input.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)


def scale_of(norm: Node) -> tuple[object, object]:
    """Return the gamma and the beta of a norm, each None where it has none."""
    gamma = norm.args[2] if len(norm.args) > 2 else None
    beta = norm.args[3] if len(norm.args) > 3 and norm.target is not aten.rms_norm.default else None
    return gamma, beta


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
            if node.op != "call_function" or isinstance(node.meta.get("val"), torch.SymInt):
                continue  # a size has no scale
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
        source, weight = self._known(node.args[0]), self._constant(node.args[1])
        bias = node.args[2] if len(node.args) > 2 else None
        if source is None or weight is None or (bias is not None and self._constant(bias) is None):
            return False
        axis = self.axis[source]
        if axis != (_rank(source) - 1 if node.target is aten.linear.default else 1):
            return False
        self._begin(node, axis, weight.shape[0])
        return True

    def same(self, node: Node) -> bool:
        """An operator that treats each channel alone and gives `s * f(x)` for `s * x`."""
        return self._take(node, self._known(node.args[0]))

    def of_pictures(self, node: Node) -> bool:
        """Do as `same` does, along the last two axes; where one of these has the channels, it mixes them."""
        source = self._known(node.args[0])
        return source is not None and self.axis[source] == _rank(source) - 3 and self._take(node, source)

    def in_float(self, node: Node) -> bool:
        """An operator in float: channels of its own after it."""
        source = self._known(node.args[0])
        if source is None:
            return False
        self._begin(node, self.axis[source], len(self.ids[source]))
        return True

    def norm(self, node: Node) -> bool:
        """A norm over the last axis, or in groups, with a constant gamma and beta or none."""
        source, over = self._known(node.args[0]), node.args[1]
        given = [part for part in scale_of(node) if part is not None]
        if source is None or any(self._constant(part) is None for part in given):
            return False
        in_groups = node.target is aten.group_norm.default
        if self.axis[source] != (1 if in_groups else _rank(source) - 1):
            return False
        if not in_groups and not (isinstance(over, list | tuple) and len(over) == 1):
            return False
        return self.in_float(node)

    def mean(self, node: Node) -> bool:
        """A mean over other axes than the channels', which keeps them."""
        source, axes = self._known(node.args[0]), node.args[1]
        keeps = len(node.args) > 2 and bool(node.args[2])
        if source is None or not isinstance(axes, list | tuple) or not keeps:
            return False
        return self.axis[source] not in _from_front(axes, source) and self._take(node, source)

    def clamp(self, node: Node) -> bool:
        """A clamp from 0 to a bound: as a relu, below the bound."""
        low, high = node.args[1:3] if len(node.args) > 2 else (-1.0, 1.0)
        if low != 0 or not isinstance(high, int | float) or not 0 < high < math.inf:
            return False
        if not self.same(node):
            return False
        self._clipped[node] = float(high)
        return True

    def pad(self, node: Node) -> bool:
        """Padding with zeros of other axes than the channels'."""
        source, pads = self._known(node.args[0]), node.args[1]
        value = node.args[2] if len(node.args) > 2 else 0.0
        if source is None or value != 0 or not isinstance(pads, list | tuple):
            return False
        return self.axis[source] < _rank(source) - len(pads) // 2 and self._take(node, source)

    def add(self, node: Node) -> bool:
        """An addition of two values of one shape: their channels are one."""
        left, right = self._known(node.args[0]), self._known(node.args[1])
        if left is None or right is None or node.kwargs.get("alpha", 1) != 1:
            return False
        if self.axis[left] != self.axis[right] or left.meta["val"].shape != right.meta["val"].shape:
            return False
        for one, other in zip(self.ids[left].tolist(), self.ids[right].tolist(), strict=True):
            self._parents[self._root(one)] = self._root(other)
        return self._take(node, left)

    def multiply(self, node: Node) -> bool:
        """A product with a gate, from 0 to 1: the gate keeps its scale, the other side passes on its own."""
        left, right = node.args[0], node.args[1]
        for one, gate in ((left, right), (right, left)):
            value = self._known(one)
            if value is None or not isinstance(gate, Node) or gate is value or not _is_gate(gate):
                continue
            if value.meta["val"].shape == node.meta["val"].shape:
                self.hold(gate)
                return self._take(node, value)
        return False

    def concatenate(self, node: Node) -> bool:
        """A concatenation along the channels."""
        sources, axis = node.args[0], node.args[1] if len(node.args) > 1 else 0
        assert isinstance(sources, list | tuple)
        known = [source for source in map(self._known, sources) if source is not None]
        if len(known) != len(sources) or not isinstance(axis, int):
            return False
        if {self.axis[source] for source in known} != {axis % _rank(node)}:
            return False
        self.ids[node] = torch.cat([self.ids[source] for source in known])
        self.axis[node] = self.axis[known[0]]
        return True

    def view(self, node: Node) -> bool:
        """A view that keeps the channels, or flattens them with all axes after them."""
        source = self._known(node.args[0])
        if source is None:
            return False
        axis, before, after = self.axis[source], source.meta["val"].shape, node.meta["val"].shape
        channels = len(self.ids[source])
        if axis == len(before) - 1 and after[-1] == channels:
            return self._take(node, source, axis=len(after) - 1)
        if axis >= len(after) or tuple(before[:axis]) != tuple(after[:axis]):
            return False
        if after[axis] == channels:
            return self._take(node, source)
        rest = before[axis + 1 :]
        if not all(isinstance(size, int) for size in rest) or after[axis] != channels * math.prod(rest):
            return False
        self.ids[node] = self.ids[source].repeat_interleave(math.prod(rest))
        self.axis[node] = axis
        return True

    def permute(self, node: Node) -> bool:
        """A permutation moves the axis."""
        source, axes = self._known(node.args[0]), node.args[1]
        if source is None or not isinstance(axes, list | tuple):
            return False
        return self._take(node, source, axis=_from_front(axes, source).index(self.axis[source]))

    def hold(self, node: Node) -> None:
        """Keep the scale of a value's channels."""
        if node in self.ids:
            self._held.update(self.ids[node].tolist())

    def _hold_all(self, node: Node) -> None:
        for source in node.all_input_nodes:
            self.hold(source)
        self._begin_held(node)

    def _begin_held(self, node: Node) -> None:
        """Give a value channels of its own that keep their scale, where it can have an axis of them.

        Several results in one (of a GRU, of a split) get none: each has its own once it is taken out.
        """
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.dtype != torch.float32:
            return
        shape = value.shape
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

    def _take(self, node: Node, source: Node | None, axis: int | None = None) -> bool:
        if source is None:
            return False
        self.ids[node] = self.ids[source]
        self.axis[node] = self.axis[source] if axis is None else axis
        return True

    def _known(self, argument: object) -> Node | None:
        """Return an argument that is a node whose channels are known."""
        return argument if isinstance(argument, Node) and argument in self.ids else None

    def _constant(self, node: object) -> torch.Tensor | None:
        return self._constants.get(node.name) if isinstance(node, Node) else None

    def _root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index


def _rank(node: Node) -> int:
    return int(node.meta["val"].dim())


def _from_front(axes: Sequence[Any], of: Node) -> list[int]:
    """Return axes of a value, counted from the front."""
    return [int(axis) % _rank(of) for axis in axes]


def _is_gate(node: Node) -> bool:
    bounds = node.args[1:3]
    return node.target in (aten.sigmoid.default, aten.hardsigmoid.default) or (
        node.target is aten.hardtanh.default and bounds == (0.0, 1.0)
    )


_Rule = Callable[[_Search, Node], bool]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(WEIGHTED, _Search.layer),
    aten.relu.default: _Search.same,
    **dict.fromkeys(_OF_PICTURES, _Search.of_pictures),
    **dict.fromkeys(IN_FLOAT, _Search.in_float),
    **dict.fromkeys(NORMS, _Search.norm),
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
