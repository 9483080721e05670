"""The integer-exact reference: a quantized program run in the arithmetic that the engines document.

Quantized layers are computed as `exact_layer` says, everything else in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node, map_arg

from edgecompile.graph_edit import operand, user_input_names
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.dynamic_layers import dynamic_layers
from edgecompile.quantize.exact_dynamic import ExactDynamicLayer
from edgecompile.quantize.exact_layer import ExactLayer
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    DEQUANTIZE_PER_CHANNEL,
    QUANTIZE,
    QuantizationParameters,
    QuantizedLayer,
    constants_of,
    parameters_of,
    quantized_layers,
)
from edgecompile.quantize.node_values import computed_value

Outputs = tuple[torch.Tensor, ...]
# The layer is a QuantizedLayer or a DynamicLayer.
Observer = Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]


class Reference:
    """Runs a program: quantized layers in exact integer arithmetic, everything else in float32.

    Attributes:
        layers: The program's quantized layers, in order.
        dynamic: Those that are quantized at run time, in order.
    """

    def __init__(self, exported: ExportedProgram, *arithmetics: Arithmetic) -> None:
        self.layers = quantized_layers(exported)
        self._graph = exported.graph
        self._constants = constants_of(exported)
        self._input_names = user_input_names(exported)
        self._arithmetics: tuple[Arithmetic, ...] = arithmetics or ("exact",)
        self.dynamic = tuple(ExactDynamicLayer(layer) for layer in dynamic_layers(exported))
        self._layer_at: dict[Node, ExactLayer | ExactDynamicLayer] = {
            **{layer.output: ExactLayer(layer) for layer in self.layers},
            **{exact.layer.compute: exact for exact in self.dynamic},
        }
        self._skipped = {node for layer in self.layers for node in layer.nodes}
        self._skipped |= {node for exact in self.dynamic for node in exact.layer.interior}

    def run(self, inputs: Sequence[torch.Tensor], observe: Observer | None = None) -> Outputs:
        """Run the program in the one arithmetic, or the first, on its inputs, batch first.

        Args:
            inputs: The model's inputs, in order.
            observe: Called after each quantized layer with the layer, its int8 inputs and its int8 output;
                a layer that is quantized at run time has a float input and a float output.

        Returns:
            The model's outputs.
        """
        return self._run(inputs, self._arithmetics[:1], observe)[self._arithmetics[0]]

    def compute(self, layer: QuantizedLayer, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return one layer's int8 output for int8 inputs of its own, in the one arithmetic, or the first."""
        return self._layer_at[layer.output].compute(inputs, self._arithmetics[0])

    def run_each(self, inputs: Sequence[torch.Tensor]) -> Mapping[Arithmetic, Outputs]:
        """Run the program in every arithmetic; what they have in common is computed once."""
        return self._run(inputs, self._arithmetics, None)

    def _run(
        self, inputs: Sequence[torch.Tensor], arithmetics: Sequence[Arithmetic], observe: Observer | None
    ) -> dict[Arithmetic, Outputs]:
        values: dict[Arithmetic, dict[Node, Any]] = {name: {} for name in arithmetics}
        given = dict(zip(self._input_names, inputs, strict=True))
        for node in self._graph.nodes:
            if node.op == "output":
                return {name: tuple(map_arg(node.args[0], values[name].__getitem__)) for name in arithmetics}
            if node in self._skipped:
                continue
            made: dict[tuple[object, ...], Any] = {}
            for name in arithmetics:
                known = values[name]
                if node.op == "placeholder":
                    known[node] = given.get(node.name, self._constants.get(node.name))
                    continue
                layer = self._layer_at.get(node)
                sources = layer.sources if layer else node.all_input_nodes
                operands: tuple[Any, ...] = tuple(known.get(source) for source in sources)
                same = (layer.form(name) if layer else "", *map(id, operands))
                if same not in made:
                    result = (
                        layer.compute(operands, name) if layer else value_between(node, known, self._skipped)
                    )
                    # Different roundings may well give the same integers.
                    made[same] = next((other for other in made.values() if _equal(other, result)), result)
                    if layer is not None and observe is not None:
                        observe(layer.layer, operands, result)
                known[node] = made[same]
        raise AssertionError("a graph ends in its output")


def value_between(node: Node, values: Mapping[Node, Any], inside: Collection[Node]) -> Any:
    """Return the value of a node that is no layer's; None where only layers read it.

    Args:
        node: A call of an operator.
        values: Those of the nodes that it reads.
        inside: The nodes of all layers.
    """
    if node.target is QUANTIZE:
        return quantize_tensor(values[operand(node)], parameters_of(node))
    is_dequantize = node.target in (DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
    if is_dequantize and all(user in inside for user in node.users):
        return None  # Only nodes in float read the real value; layers take the integers.
    if node.target is DEQUANTIZE:
        return dequantize_tensor(values[operand(node)], parameters_of(node))
    return computed_value(node, values)


def quantize_tensor(value: torch.Tensor, parameters: QuantizationParameters) -> torch.Tensor:
    """Quantize as the engines do: multiply by the float32 reciprocal, round half to even."""
    steps = unclamped_steps(value, parameters)
    return steps.clamp_(parameters.quant_min, parameters.quant_max).to(torch.int8)


def unclamped_steps(value: torch.Tensor, parameters: QuantizationParameters) -> torch.Tensor:
    """Return the nearest integers as float32, those outside the quantized range too."""
    reciprocal = torch.tensor(1.0, dtype=torch.float32) / torch.tensor(parameters.scale, dtype=torch.float32)
    return (value * reciprocal).round_().add_(parameters.zero_point)


def dequantize_tensor(value: torch.Tensor, parameters: QuantizationParameters) -> torch.Tensor:
    """Return the real value in float32."""
    return value.to(torch.float32, copy=True).sub_(parameters.zero_point).mul_(parameters.scale)


def _equal(left: Any, right: Any) -> bool:
    return isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor) and torch.equal(left, right)
