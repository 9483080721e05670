"""Absorption: what is constant in a channel is taken out of it and put into the biases of what reads it.

A tensor has one range, but its channels lie around values of their own, and the range must span them all.
What a layer adds to a channel, the layers that read it can add instead, so that the channels lie around zero
(Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1.3,
for the biases that equalization makes high; here for all values between layers that nothing bends).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, output_nodes
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.quantize.channel_statistics import ChannelStatistics
from edgecompile.quantize.channels import Channels, read_by_rows
from edgecompile.quantize.layers import WEIGHTED, constants_of

aten = torch.ops.aten

_STEPS, _RATE = 80, 0.05  # of Adam, on offsets as shares of their channel's range
_LEAST_GAIN_DB = 0.3  # Below it the prediction is not sure enough.

Offsets = dict[str, torch.Tensor]
"""By the name of a layer's node, what is taken out of each channel of its output, (K,)."""

# What gives `f(x) + c` for `x + c`, each channel alone.
_CONSTANT_PRESERVING = (
    aten.mean.dim,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class OffsetPlaces:
    """Where offsets can be taken out, and where they arrive.

    Attributes:
        first: Of each layer, the index of its first channel's offset.
        parts: Of each value that offsets arrive at: index tensors, (C,); their offsets are added up. 0 stands
            for none.
        held: (count,), bool: the offsets that must stay 0.
    """

    first: dict[Node, int]
    parts: dict[Node, tuple[torch.Tensor, ...]]
    held: torch.Tensor

    def can_move(self, node: Node) -> bool:
        """Tell whether an offset that need not be 0 arrives at a value."""
        return any(not bool(self.held[part].all()) for part in self.parts.get(node, ()))

    def width(self, node: Node) -> int:
        """Return how many channels a value has that offsets arrive at."""
        return len(self.parts[node][0])

    def at(self, node: Node, offsets: torch.Tensor) -> torch.Tensor:
        """Return what is missing of the channels, (C,), of a value that offsets arrive at."""
        return torch.stack([offsets[part] for part in self.parts[node]]).sum(0)


def offset_places(exported: ExportedProgram, channels: Channels) -> OffsetPlaces:
    """Find them in a program after the passes."""
    return _Search(exported, channels).run()


class _Search:
    def __init__(self, exported: ExportedProgram, channels: Channels) -> None:
        self._graph = exported.graph
        self._constants = constants_of(exported)
        self._channels = channels
        self._held: set[int] = {0}
        self._count = 1
        self.first: dict[Node, int] = {}
        self.parts: dict[Node, tuple[torch.Tensor, ...]] = {}

    def run(self) -> OffsetPlaces:
        for node in self._graph.nodes:
            if node.op != "call_function":
                continue
            rule = _RULES.get(node.target)
            if rule is None or not rule(self, node):
                for source in node.all_input_nodes:
                    self._hold(source)
        for node in output_nodes(self._graph):
            self._hold(node)
        held = torch.zeros(self._count, dtype=torch.bool)
        held[sorted(self._held)] = True
        return OffsetPlaces(first=self.first, parts=self.parts, held=held)

    def layer(self, node: Node) -> bool:
        """A layer's bias takes up what is missing of its input, where no zero padding mixes with it."""
        constants = [argument for argument in node.args[1:3] if isinstance(argument, Node)]
        if any(argument.name not in self._constants for argument in constants):
            return False
        if node not in self._channels.ids:
            return False
        count = len(self._constants[constants[0].name])
        self.first[node] = self._count
        self.parts[node] = (torch.arange(self._count, self._count + count),)
        self._count += count
        padding: Any = node.args[4] if len(node.args) > 4 else 0
        return padding == 0 or (isinstance(padding, list | tuple) and not any(padding))

    def preserve(self, node: Node) -> bool:
        """Means, views and the like pass offsets on."""
        source = operand(node)
        if source not in self.parts:
            return True
        ids = self._channels.ids
        if node not in ids or source not in ids or not set(ids[node].tolist()) <= set(ids[source].tolist()):
            return False
        repeats = len(ids[node]) // len(ids[source])
        self.parts[node] = tuple(part.repeat_interleave(repeats) for part in self.parts[source])
        return True

    def add(self, node: Node) -> bool:
        """The offsets of both sides add up."""
        left, right = node.args[0], node.args[1]
        if not (isinstance(left, Node) and isinstance(right, Node)) or node.kwargs.get("alpha", 1) != 1:
            return False
        both = (*self.parts.get(left, ()), *self.parts.get(right, ()))
        if left.meta["val"].shape != right.meta["val"].shape or len({len(part) for part in both}) > 1:
            return False
        if both:
            self.parts[node] = both
        return True

    def concatenate(self, node: Node) -> bool:
        """Each channel keeps its offsets."""
        ids = self._channels.ids
        sources = [source for source in node.args[0] if isinstance(source, Node)]  # type: ignore[union-attr]
        arriving = [self.parts.get(source, ()) for source in sources]
        if not any(arriving):
            return True
        if node not in ids or any(source not in ids for source in sources):
            return False
        if len(ids[node]) != sum(len(ids[source]) for source in sources):
            return False
        longest = max(map(len, arriving))
        filled = [
            (*parts, *[torch.zeros_like(ids[source])] * (longest - len(parts)))
            for source, parts in zip(sources, arriving, strict=True)
        ]
        self.parts[node] = tuple(torch.cat(row) for row in zip(*filled, strict=True))
        return True

    def _hold(self, node: Node) -> None:
        for part in self.parts.get(node, ()):
            self._held.update(part.tolist())


_RULES: Mapping[Any, Callable[[_Search, Node], bool]] = {
    **dict.fromkeys(WEIGHTED, _Search.layer),
    **dict.fromkeys(_CONSTANT_PRESERVING, _Search.preserve),
    aten.add.Tensor: _Search.add,
    aten.cat.default: _Search.concatenate,
}


def find_offsets(
    exported: ExportedProgram,
    channels: Channels,
    statistics: Mapping[Node, ChannelStatistics],
    noise: float,
) -> Offsets:
    """Choose the offsets with the least noise that rounding the values is predicted to bring to the outputs.

    Args:
        exported: The program.
        channels: Its channels.
        statistics: Of the values that are rounded.
        noise: Predicted for the whole program as it is, relative to the outputs' power.

    Returns:
        The offsets; none where they bring too little.
    """
    places = offset_places(exported, channels)
    values = [(item, node) for node, item in statistics.items() if places.can_move(node)]
    if not values:
        return {}
    size, start = (torch.zeros(len(places.held)) for _ in range(2))
    for node, first in places.first.items():
        if node not in statistics:
            continue
        low, high = statistics[node].least.amin(0), statistics[node].greatest.amax(0)
        size[first : first + len(low)] = high - low
        start[first : first + len(low)] = (high + low) / 2
    size = size * ~places.held
    share = (start / size.clamp_min(1e-12)).requires_grad_()

    def rounding(offsets: torch.Tensor) -> torch.Tensor:
        return torch.stack([_rounding_noise(item, places.at(node, offsets)) for item, node in values]).sum()

    optimizer = torch.optim.Adam([share], _RATE)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimizer.zero_grad()
        with torch.enable_grad():
            torch.log(rounding(share * size)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    offsets = (share * size).detach()
    saved = float(rounding(torch.zeros_like(offsets)) - rounding(offsets))
    if not saved >= noise * (1 - 10 ** (-_LEAST_GAIN_DB / 10)):  # neither where the values are no numbers
        return {}
    found = {node.name: offsets[first : first + places.width(node)] for node, first in places.first.items()}
    return {name: own for name, own in found.items() if bool(own.any())}


def _rounding_noise(item: ChannelStatistics, offset: torch.Tensor) -> torch.Tensor:
    low, high = (item.least.amin(0) - offset).amin(), (item.greatest.amax(0) - offset).amax()
    step = (high.clamp_min(0) - low.clamp_max(0)) / 255
    return step.square() / 12 * item.sensitivity.sum()


def missing_of(exported: ExportedProgram, channels: Channels, offsets: Offsets) -> dict[str, torch.Tensor]:
    """Return what is missing of each value, (C,), float64, by its node's name, once offsets are taken out."""
    if not offsets:
        return {}
    places = offset_places(exported, channels)
    every = torch.zeros(len(places.held), dtype=torch.float64)
    for node, first in places.first.items():
        if node.name in offsets:
            every[first : first + places.width(node)] = offsets[node.name].double()
    return {node.name: places.at(node, every) for node in places.parts if places.can_move(node)}


def apply_offsets(exported: ExportedProgram, channels: Channels, offsets: Offsets) -> PassOutcome:
    """Take offsets out of the layers' biases, and put them into those of the layers that read them.

    Before: `x -> conv2d(w1, b1) -> conv2d(w2, b2)`
    After:  `x -> conv2d(w1, b1 - c) -> conv2d(w2, b2 + w2 c)`, a number c for each channel between

    Computed in float64 and rounded once.
    """
    missing = missing_of(exported, channels, offsets)
    editor = ProgramEditor(exported)
    for node in editor.calls(*WEIGHTED):
        own, read = offsets.get(node.name), missing.get(operand(node).name)
        if own is None and (read is None or not bool(read.any())):
            continue
        weight = editor.constant(node.args[1])
        assert weight is not None
        bias = editor.constant(node.args[2]) if len(node.args) > 2 else None
        moved = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
        if own is not None:
            moved = moved - own.double()
        if read is not None:
            rows = weight.double().flatten(2).sum(2) if weight.dim() > 2 else weight.double()
            moved = moved + (rows * read_by_rows(node, weight, read)).sum(1)
        constant = editor.add_constant(f"{node.name}_bias", moved.to(weight.dtype))
        node.args = (*node.args[:2], constant, *node.args[3:])
        editor.rewrites += 1
    return outcome(editor)
