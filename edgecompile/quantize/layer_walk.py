"""A walk through a quantized program and its float program, layer after layer, over all samples at once.

At each layer with weights the walk stops: what the layer reads is known, as all layers before it give it, and
so is what it should give. The layer may be changed before what follows it is run, so that each layer
sees the errors of those before it as they are in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.graph_edit import ProgramEditor, operand, user_input_names
from edgecompile.progress import Progress
from edgecompile.quantize.exact_layer import ExactLayer
from edgecompile.quantize.layers import QuantizedLayer, Weights, constants_of, quantized_layers
from edgecompile.quantize.reference import Reference
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
    reference = Reference(exported)
    twins = float_nodes(exported, in_float)
    weighted = [layer for layer in changeable_layers(exported) if layer.compute in twins]
    if not weighted:
        return exported
    stops = {layer.output for layer in weighted}
    float_values = _FloatValues(in_float, samples)
    changed: dict[str, Weights] = {}

    def visit(layer: QuantizedLayer, inputs: list[tuple[torch.Tensor, ...]]) -> QuantizedLayer:
        if layer.output not in stops:
            return layer
        assert layer.weights is not None
        twin = twins[layer.compute]
        weight, bias = (float_values.constant(twin, index) for index in (1, 2))
        assert weight is not None
        stop = LayerStop(
            layer=layer,
            inputs=[operands[0] for operands in inputs],
            wanted=float_values.of(twin),
            weight=weight,
            bias=bias,
        )
        changed[layer.name] = change(stop)
        progress.advance()
        return replace(layer, weights=changed[layer.name])

    with torch.no_grad():
        _run_all(exported, reference, samples, visit, last=weighted[-1].output)
    return _with_weights(exported, changed)


def changeable_layers(exported: ExportedProgram) -> list[QuantizedLayer]:
    """Return the layers with weights of their own: what two layers share stays as it is."""
    return [
        layer
        for layer in quantized_layers(exported)
        if layer.weights is not None and len(operand(layer.compute, 1).users) == 1
    ]


def _run_all(
    exported: ExportedProgram,
    reference: Reference,
    samples: Sequence[Inputs],
    visit: Callable[[QuantizedLayer, list[tuple[torch.Tensor, ...]]], QuantizedLayer],
    *,
    last: Node,
) -> None:
    layers = {layer.output: layer for layer in reference.layers}
    inside = {node for layer in reference.layers for node in layer.nodes}
    sources = {
        node: [operand(item) for item in layers[node].inputs] if node in layers else node.all_input_nodes
        for node in exported.graph.nodes
        if node not in inside
    }
    last_reader = {source: node for node, read in sources.items() for source in read}
    constants, names = constants_of(exported), user_input_names(exported)
    known: list[dict[Node, Any]] = [{} for _ in samples]
    for node in exported.graph.nodes:
        if node in inside or node.op == "output":
            continue
        if node.op == "placeholder":
            for values, inputs in zip(known, samples, strict=True):
                values[node] = inputs[names.index(node.name)] if node.name in names else constants[node.name]
            continue
        if node in layers:
            operands = [tuple(values[source] for source in sources[node]) for values in known]
            layer = ExactLayer(visit(layers[node], operands))
            for values, own in zip(known, operands, strict=True):
                values[node] = layer.compute(own, "exact")
            if node is last:
                return
        else:
            for values in known:
                values[node] = reference.evaluate(node, values)
        for source in sources[node]:
            if last_reader[source] is node:
                for values in known:
                    values.pop(source, None)


class _FloatValues:
    """The float program's values for all samples, each computed when it is asked for, in order."""

    def __init__(self, exported: ExportedProgram, samples: Sequence[Inputs]) -> None:
        self._constants = constants_of(exported)
        names = user_input_names(exported)
        self._known: list[dict[Node, Any]] = [{} for _ in samples]
        for node in exported.graph.find_nodes(op="placeholder"):
            for values, inputs in zip(self._known, samples, strict=True):
                is_input = node.name in names
                values[node] = inputs[names.index(node.name)] if is_input else self._constants[node.name]
        self._nodes = iter([node for node in exported.graph.nodes if node.op == "call_function"])
        self._last_reader = {source: node for node in exported.graph.nodes for source in node.all_input_nodes}

    def of(self, wanted: Node) -> list[torch.Tensor]:
        """Return a node's value for each sample; what only nodes before it read is let go."""
        while wanted not in self._known[0]:
            node = next(self._nodes)
            assert callable(node.target)
            for values in self._known:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
            for source in node.all_input_nodes:
                if self._last_reader[source] is node:
                    for values in self._known:
                        del values[source]
        return [values[wanted] for values in self._known]

    def constant(self, node: Node, index: int) -> torch.Tensor | None:
        """Return an argument of a node that is a constant; None where there is no such argument."""
        argument = node.args[index] if len(node.args) > index else None
        return self._constants[argument.name] if isinstance(argument, Node) else None


def _with_weights(exported: ExportedProgram, changed: dict[str, Weights]) -> ExportedProgram:
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
