"""Which roundings cost how much: a program with those of each layer alone, and with all but those of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgecompile.compare import top1
from edgecompile.dataset import Sample
from edgecompile.graph_edit import operator_name, source_line
from edgecompile.quantize.layers import QuantizedLayer
from edgecompile.quantize.side_by_side import real_node
from edgecompile.quantize.simulation import Simulation
from edgecompile.sensitivity import SampleNoise, Tried


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundedPart:
    """What is rounded together: a layer, or a value that no layer gives.

    Attributes:
        source: The node that computes it.
        layer: None where an input, or what an operator in float gave, is rounded for a layer.
        weights: Stands for the rounding of the weights; None where there are none.
        output: Rounds the value.
    """

    source: Node
    layer: QuantizedLayer | None
    weights: Node | None
    output: Node

    @property
    def name(self) -> str:
        """Unique in the program."""
        return self.source.name

    @property
    def kind(self) -> str:
        """The operator's short name, or `input`."""
        return "input" if self.source.op == "placeholder" else operator_name(self.source)

    @property
    def where(self) -> str:
        """The user's source line."""
        return source_line(self.source)

    @property
    def roundings(self) -> tuple[Node, ...]:
        """All that is rounded."""
        return (self.output,) if self.weights is None else (self.weights, self.output)


def rounded_parts(simulation: Simulation) -> tuple[RoundedPart, ...]:
    """Return all parts of a program, in order."""
    layers = {layer.output: layer for layer in simulation.layers}
    return tuple(_part(node, layers.get(node), simulation) for node in simulation.values)


def _part(output: Node, layer: QuantizedLayer | None, simulation: Simulation) -> RoundedPart:
    if layer is None:
        return RoundedPart(source=real_node(output), layer=None, weights=None, output=output)
    weights = layer.compute if simulation.has_weights(layer.compute) else None
    return RoundedPart(source=layer.compute, layer=layer, weights=weights, output=output)


def measure_sample(simulation: Simulation, parts: Sequence[RoundedPart], sample: Sample) -> SampleNoise:
    """Return what each part costs on one sample.

    The values of the whole program are held twice: in float, and with all roundings.
    """
    with torch.no_grad():
        in_float = simulation.run(sample.inputs, rounded=False)
        expected = simulation.outputs(in_float)
        rounded = simulation.run(sample.inputs, rounded=True)

        def alone(switched: Collection[Node]) -> Tried:
            return _tried(simulation.outputs_with(in_float, switched, rounded=False), expected, sample)

        def without(switched: Collection[Node]) -> Tried:
            return _tried(simulation.outputs_with(rounded, switched, rounded=True), expected, sample)

        return SampleNoise(
            signal=sum(_energy(output) for output in expected),
            in_float=_tried(expected, expected, sample),
            rounded=_tried(simulation.outputs(rounded), expected, sample),
            alone={part.name: alone(part.roundings) for part in parts},
            weights={part.name: alone((part.weights,)) for part in parts if part.weights is not None},
            without={part.name: without(part.roundings) for part in parts},
        )


def _tried(outputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], sample: Sample) -> Tried:
    noise = sum(_energy(value.double() - wanted) for value, wanted in zip(outputs, expected, strict=True))
    is_right = None if sample.label is None else top1(tuple(outputs))[0] == sample.label
    return Tried(noise=noise, is_right=is_right)


def _energy(value: torch.Tensor) -> float:
    return float(value.double().square().sum())
