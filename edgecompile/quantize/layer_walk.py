"""A walk through a quantized program and its float program, layer after layer, over all samples at once.

At each layer with weights the walk stops: what the layer reads is known, as all layers before it give it, and
so is what it should give. The layer may be changed before what follows it is run, so that each layer
sees the errors of those before it as they are in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.progress import Progress
from edgecompile.quantize.exact_layer import ExactLayer
from edgecompile.quantize.layers import QuantizedLayer, Weights, constants_of, quantized_layers
from edgecompile.quantize.node_values import SampleValues, computed_value
from edgecompile.quantize.reference import value_between
from edgecompile.quantize.side_by_side import float_nodes

Inputs = Sequence[torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerStop:
    """A layer with weights, and what it does for each sample.

    Attributes:
        inputs: Its int8 input, one tensor a sample.
        wanted: The float program's value before the clamp, one tensor a sample.
        weight: The float weight.
        bias: The float bias; None for no bias.
    """

    layer: QuantizedLayer
    inputs: list[torch.Tensor]
    wanted: list[torch.Tensor]
    weight: torch.Tensor
    bias: torch.Tensor | None


Change = Callable[[LayerStop], Weights]


def walk_layers(
    exported: ExportedProgram,
    in_float: ExportedProgram,
    samples: Sequence[Inputs],
    change: Change,
    progress: Progress,
) -> ExportedProgram:
    """Return the quantized program with the weights that `change` gives for each layer that has some.

    Args:
        exported: The quantized program.
        in_float: The program that it was made from.
        samples: Inputs; the values of all of them that are still needed are held at once.
        change: Gives a layer's new integers and its bias; scales stay.
        progress: Is told of each layer with weights.
    """
    twins = float_nodes(exported, in_float)
    stops = {layer.output for layer in changeable_layers(exported) if layer.compute in twins}
    float_values = _FloatValues(in_float, samples)
    changed: dict[str, Weights] = {}

    def visit(layer: QuantizedLayer, inputs: Sequence[tuple[torch.Tensor, ...]]) -> QuantizedLayer:
        if layer.output not in stops:
            return layer
        twin = twins[layer.compute]
        weight, bias = (float_values.constant(twin, index) for index in (1, 2))
        assert weight is not None
        stop = LayerStop(
            layer=layer,
            inputs=[value for (value,) in inputs],
            wanted=float_values.of(twin),
            weight=weight,
            bias=bias,
        )
        changed[layer.name] = change(stop)
        stops.remove(layer.output)
        progress.advance()
        return replace(layer, weights=changed[layer.name])

    with torch.no_grad():
        values = _quantized_values(exported, samples, visit)
        while stops:
            next(values)
    return with_weights(exported, changed)


def changeable_layers(exported: ExportedProgram) -> list[QuantizedLayer]:
    """Return the layers with weights of their own: what two layers share stays as it is."""
    return [
        layer
        for layer in quantized_layers(exported)
        if layer.weights is not None and len(operand(layer.compute, 1).users) == 1
    ]


def _quantized_values(
    exported: ExportedProgram,
    samples: Sequence[Inputs],
    visit: Callable[[QuantizedLayer, Sequence[tuple[torch.Tensor, ...]]], QuantizedLayer],
) -> Iterator[Node]:
    """Run a quantized program node by node; each layer is computed as `visit` gives it back."""
    layers = {layer.output: layer for layer in quantized_layers(exported)}
    inside = {node for layer in layers.values() for node in layer.nodes}
    nodes = [node for node in exported.graph.nodes if node not in inside]
    sources = {node: layers[node].sources if node in layers else node.all_input_nodes for node in nodes}
    values = SampleValues(exported, samples, sources)
    for node in nodes:
        if node.op != "call_function":
            continue
        if node in layers:
            inputs = [tuple(known[source] for source in sources[node]) for known in values.known]
            layer = ExactLayer(visit(layers[node], inputs))
            values.put(node, [layer.compute(own, "exact") for own in inputs])
        else:
            values.put(node, [value_between(node, known, inside) for known in values.known])
        yield node


class _FloatValues:
    """The float program's values for all samples, each computed when it is asked for, in order."""

    def __init__(self, exported: ExportedProgram, samples: Sequence[Inputs]) -> None:
        self._constants = constants_of(exported)
        sources = {node: node.all_input_nodes for node in exported.graph.nodes}
        self._values = SampleValues(exported, samples, sources)
        self._nodes = (node for node in exported.graph.nodes if node.op == "call_function")

    def of(self, wanted: Node) -> list[torch.Tensor]:
        """Return a node's value for each sample; none is asked for twice."""
        for node in self._nodes:
            self._values.put(node, [computed_value(node, known) for known in self._values.known])
            if node is wanted:
                break
        return [known[wanted] for known in self._values.known]

    def constant(self, node: Node, index: int) -> torch.Tensor | None:
        """Return an argument of a node that is a constant; None where there is no such argument."""
        argument = node.args[index] if len(node.args) > index else None
        return self._constants[argument.name] if isinstance(argument, Node) else None


def with_weights(exported: ExportedProgram, changed: dict[str, Weights]) -> ExportedProgram:
    """Return a quantized program with other integers and biases of some layers, by their names."""
    editor = ProgramEditor(exported)
    for node in editor.calls():
        weights = changed.get(node.name)
        if weights is None:
            continue
        operand(node, 1).update_arg(0, editor.add_constant(f"{node.name}_weight", weights.weight))
        if weights.bias is not None:
            bias = editor.add_constant(f"{node.name}_bias", weights.bias)
            node.args = (*node.args[:2], bias, *node.args[3:])
    return editor.finish()
