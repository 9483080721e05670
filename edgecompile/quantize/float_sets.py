"""Which layers to keep in float first: sets on the way from all in INT8 to all in float.

The noise that one rounding brings to the outputs is measured with nothing else rounded; that of several is
predicted as their sum. A layer in float saves the rounding of its weights. The rounding of a value goes only
where everything that computes it or reads it is in float, so layers are also taken together around a value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch.fx import Node

from edgecompile.decibels import relative_noise
from edgecompile.program import QuantizedProgram
from edgecompile.quantize.layers import (
    QUANTIZE,
    QuantizedLayer,
    described,
    multiply_accumulates,
    quantized_layers,
)
from edgecompile.quantize.side_by_side import real_node
from edgecompile.sensitivity import SensitivityReport

# What computes new values; all else that is quantized moves or compares values on one grid.
_COMPUTING = ("add", "mul", "mean")


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatSet:
    """Layers to keep in float.

    Attributes:
        layers: In graph order; those that only move values are left out.
        noise: What is predicted to be left at the outputs, relative to their energy.
    """

    layers: tuple[QuantizedLayer, ...]
    noise: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Value:
    """Values on one grid: what one layer gives, moved about or joined with others.

    Attributes:
        around: The computing layers that give or read it.
        movers: The layers that only move it.
        noise: Of its rounding, relative.
    """

    around: frozenset[QuantizedLayer]
    movers: tuple[QuantizedLayer, ...]
    noise: float


class FloatSets:
    """Finds the sets of one program.

    Attributes:
        layers: Those that can be kept in float, in order: all that compute.
    """

    def __init__(self, program: QuantizedProgram, sensitivity: SensitivityReport) -> None:
        in_float = {row.what for row in program.unquantized}
        layers = [
            layer
            for layer in quantized_layers(program.exported)
            if described(layer.compute) not in in_float  # between two quantized values all the same
        ]
        noise = {row.name: relative_noise(row.alone_sqnr_db) for row in sensitivity.rows}
        self._weights = {
            row.name: min(relative_noise(row.weights_sqnr_db), noise[row.name]) for row in sensitivity.rows
        }
        self.layers = [layer for layer in layers if not _is_mover(layer)]
        self._total = max(sum(map(multiply_accumulates, self.layers)), 1)
        self._order = {layer: index for index, layer in enumerate(layers)}
        rounding = {name: noise[name] - self._weights[name] for name in noise}
        self._values = _values(layers, rounding)
        self._near: dict[QuantizedLayer, list[_Value]] = {layer: [] for layer in self.layers}
        for value in self._values:
            for layer in value.around:
                self._near[layer].append(value)

    def mac_share(self, layer: QuantizedLayer) -> float:
        """Return a layer's share of the multiply-accumulates, 0 to 1."""
        return multiply_accumulates(layer) / self._total

    def cost(self, layer: QuantizedLayer) -> float:
        """Return what a layer in float costs: its share of the layers and of the multiply-accumulates."""
        return 1 / len(self.layers) + self.mac_share(layer)

    def noise(self, kept: Collection[QuantizedLayer]) -> float:
        """Return the noise that is predicted with some layers in float."""
        weights = sum(self._weights[layer.name] for layer in self.layers if layer not in kept)
        return weights + sum(value.noise for value in self._values if not value.around <= set(kept))

    def whole(self, kept: Collection[QuantizedLayer]) -> tuple[QuantizedLayer, ...]:
        """Return computing layers with those that only move what they no longer round, in graph order."""
        free = [value for value in self._values if value.around <= set(kept)]
        movers = [layer for value in free for layer in value.movers]
        return self.in_order({*kept, *movers})

    def sequence(self) -> list[FloatSet]:
        """Return sets from none to all layers, each with the one before it in it.

        Each step takes the layer, or the layers around a value, that save most noise for their cost.
        """
        kept: set[QuantizedLayer] = set()
        sets = [FloatSet(layers=(), noise=self.noise(kept))]
        while len(kept) < len(self.layers):
            best = max(self._steps(kept), key=partial(self._worth, frozenset(kept)))
            kept |= best
            sets.append(FloatSet(layers=self.in_order(kept), noise=self.noise(kept)))
        return sets

    def in_order(self, layers: Collection[QuantizedLayer]) -> tuple[QuantizedLayer, ...]:
        """Return layers in graph order."""
        return tuple(sorted(layers, key=self._order.__getitem__))

    def _steps(self, kept: Collection[QuantizedLayer]) -> Iterator[frozenset[QuantizedLayer]]:
        for layer in self.layers:
            if layer not in kept:
                yield frozenset((layer,))
        for value in self._values:
            missing = value.around.difference(kept)
            if len(missing) > 1:
                yield missing

    def _worth(self, kept: Collection[QuantizedLayer], step: frozenset[QuantizedLayer]) -> float:
        """Return the noise that a step saves, over its cost."""
        weights = sum(self._weights[layer.name] for layer in step)
        freed = {
            value
            for layer in step
            for value in self._near[layer]
            if all(other in step or other in kept for other in value.around)
        }
        return (weights + sum(value.noise for value in freed)) / sum(map(self.cost, step))


def _values(layers: Sequence[QuantizedLayer], rounding: Mapping[str, float]) -> list[_Value]:
    """Return the values on one grid each, with what is around them.

    Args:
        layers: All layers.
        rounding: The noise of rounding each part's value, by the part's name.
    """
    grid: dict[Node, Node] = {}  # from a quantize node towards the one that stands for all on its grid

    def root(node: Node) -> Node:
        while node in grid:
            node = grid[node]
        return node

    movers = [layer for layer in layers if _is_mover(layer)]
    for layer in movers:
        for source in layer.sources:
            if root(source) is not root(layer.output):
                grid[root(layer.output)] = root(source)
    around: dict[Node, set[QuantizedLayer]] = {}
    moving: dict[Node, list[QuantizedLayer]] = {}
    noise: dict[Node, float] = {}
    rounded = {source for layer in layers for source in layer.sources if source.target is QUANTIZE}
    own_output = {layer.output for layer in layers}
    for node in rounded - own_output:  # an input, or what an operator in float gave
        noise[root(node)] = noise.get(root(node), 0.0) + rounding.get(real_node(node).name, 0.0)
    for layer in layers:
        value = root(layer.output)
        if _is_mover(layer):
            moving.setdefault(value, []).append(layer)
            continue
        noise[value] = noise.get(value, 0.0) + rounding.get(layer.name, 0.0)
        for place in (value, *map(root, layer.sources)):
            around.setdefault(place, set()).add(layer)
    return [
        _Value(around=frozenset(beside), movers=tuple(moving.get(node, ())), noise=noise.get(node, 0.0))
        for node, beside in around.items()
    ]


def _is_mover(layer: QuantizedLayer) -> bool:
    """Tell whether a layer's output is on its inputs' grid without being rounded."""
    return (
        layer.weights is None
        and layer.kind not in _COMPUTING
        and all(parameters == layer.output_parameters for parameters in layer.input_parameters)
    )
