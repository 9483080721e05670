"""A constant weight in few bits: zero point 0, one scale for each output channel or each group of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.quantize.layers import DEQUANTIZE_PER_CHANNEL

aten = torch.ops.aten

# Engines want scales that are normal numbers; far below this a weight adds nothing to a float32 sum.
_LEAST_SCALE = 2.0**-100


@dataclass(frozen=True, kw_only=True)
class WeightGrid:
    """How a weight is stored.

    Attributes:
        bits: Of a step.
        group_size: So many neighbouring inputs share a scale; 0 for all inputs of an output channel.
    """

    bits: int
    group_size: int = 0

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest step: symmetric for a channel, all there are for a group."""
        greatest = 2 ** (self.bits - 1) - 1
        return (-greatest - 1 if self.group_size else -greatest), greatest

    def quantize(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the steps, int8, and their scales, float32 (R,).

        The value of the largest magnitude is the least step, whatever its sign; so a scale may be negative
        in a group, whose 16 steps are all used. With 4 bits that is worth 1 dB beside -7 to 7.

        Args:
            weight: float32, output channels first: (K, ...).

        Returns:
            Steps of the weight's shape with a scale for each output channel; or, in groups, steps of the
            shape (R, group_size), where the groups of one output channel follow each other.
        """
        steps_shape = (-1, self.group_size) if self.group_size else weight.shape
        rows = weight.reshape(-1, self.group_size) if self.group_size else weight.flatten(1)
        extreme = rows.gather(1, rows.abs().argmax(1, keepdim=True)).squeeze(1)  # (R,)
        scales = (extreme if self.group_size else -extreme.abs()) / self.bounds[0]
        scales = torch.where(scales.abs() < _LEAST_SCALE, _LEAST_SCALE, scales)
        steps = torch.round(rows / scales[:, None]).clamp(*self.bounds).to(torch.int8)
        return steps.reshape(steps_shape), scales


class WeightStore:
    """Quantizes the weights of a program that is edited; one that several layers read is stored once.

    Each layer dequantizes for itself all the same: a delegate takes a layer with all that it reads, and two
    layers that share a node would have to be taken together.
    """

    def __init__(self, editor: ProgramEditor) -> None:
        self._editor = editor
        self._stored: dict[tuple[Node, WeightGrid], list[Node]] = {}

    def dequantized(self, layer: Node, grid: WeightGrid) -> Node:
        """Return a node that dequantizes a layer's weight, inserted before the layer.

        Before: linear(x, w)  w (N, K)
        After:  linear(x, dequantize_per_channel(q, s))              q (N, K), s (N,)
                linear(x, view(dequantize_per_channel(q, s)))        q (N * K / g, g), s (N * K / g,)
        """
        editor, source = self._editor, layer.args[1]
        assert isinstance(source, Node)
        if (source, grid) not in self._stored:
            self._stored[source, grid] = self._store(source, grid)
        stored = self._stored[source, grid]
        node = editor.insert(layer, DEQUANTIZE_PER_CHANNEL, *stored, 0, *grid.bounds, torch.int8)
        shape = list(source.meta["val"].shape)
        return editor.insert(layer, aten.view.default, node, shape) if grid.group_size else node

    def _store(self, source: Node, grid: WeightGrid) -> list[Node]:
        """Add the steps, their scales and the zero points as constants."""
        weight = self._editor.constant(source)
        assert weight is not None
        steps, scales = grid.quantize(weight)
        zero_points = torch.zeros(len(scales), dtype=torch.int64)
        return [
            self._editor.add_constant(f"{source.name}_{role}", value)
            for role, value in (("steps", steps), ("scales", scales), ("zero_points", zero_points))
        ]
