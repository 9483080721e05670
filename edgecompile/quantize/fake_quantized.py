"""A quantized program as a differentiable function of its weights, biases and activation scales.

Quantized values are held as the real numbers that they stand for ("fake quantization", Jacob et al. 2018,
section 3). Rounding has the gradient of the identity, the straight-through estimator (Bengio et al. 2013,
"Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation"); a scale has
that of Esser et al. 2020, "Learned Step Size Quantization", arXiv:1902.08153.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.distillation import Parameter
from edgecompile.graph_edit import ProgramEditor, operand, output_nodes
from edgecompile.quantize.layer_walk import changeable_layers, with_weights
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    QUANTIZE,
    QuantizationParameters,
    QuantizedLayer,
    parameters_of,
    quantized_layers,
)
from edgecompile.quantize.node_values import computed_value, given_values
from edgecompile.quantize.scales import LEAST_SCALE

Constant = Node | QuantizationParameters
# Learning rates beside that of the weights.
_RATES: dict[str, float] = {"weight": 1.0, "bias": 1.0, "scale": 0.5}


class FakeQuantized:
    """Runs a quantized program on floats, and writes what was trained into it.

    Attributes:
        parameters: Weights in steps of their scales, biases in steps of their layer's output, logarithms of
            scales; may be changed in place between runs.
        together: Samples are run one by one, as the integer program runs them.
    """

    together = 1

    def __init__(
        self,
        exported: ExportedProgram,
        *,
        limit: int,
        learn_scales: bool,
        zeros: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Begin with the program as it is.

        A weight begins at its integer, not at the float program's weight nearby: many of those lie at the
        border of their integer's cell, and the first steps would undo what was gained by rounding well.

        Args:
            exported: The quantized program.
            limit: The greatest absolute value of a weight's integer.
            learn_scales: Whether scales of activations are parameters.
            zeros: By the name of a layer, which of its weights stay 0.
        """
        self._exported, self._limit = exported, limit
        self._zeros = zeros or {}
        self._layers = changeable_layers(exported)
        self._weights: dict[Node, tuple[QuantizedLayer, torch.Tensor]] = {}
        self._biases: dict[Node, tuple[QuantizedLayer, torch.Tensor]] = {}
        for layer in self._layers:
            assert layer.weights is not None
            self._weights[operand(layer.compute, 1)] = layer, layer.weights.weight.float()
            if layer.weights.bias is not None:
                steps = layer.weights.bias / layer.output_parameters.scale
                self._biases[operand(layer.compute, 2)] = layer, steps
        # What shares its parameters now, as all inputs of a concatenation do, shares them afterwards.
        self._shared = {node: parameters_of(node) for node in exported.graph.nodes if node.target is QUANTIZE}
        self._scales = {
            parameters: torch.tensor(math.log(parameters.scale)) for parameters in self._shared.values()
        }
        self.parameters = [
            *(Parameter(value=value, rate=_RATES["weight"]) for _, value in self._weights.values()),
            *(Parameter(value=value, rate=_RATES["bias"]) for _, value in self._biases.values()),
            *(
                Parameter(value=value, rate=_RATES["scale"])
                for value in self._scales.values()
                if learn_scales
            ),
        ]

    def constants(self) -> dict[Constant, torch.Tensor]:
        """Return what the parameters stand for, differentiably: weights, biases, scales of activations."""
        found: dict[Constant, torch.Tensor] = {}
        for node, (layer, steps) in self._weights.items():
            rounded = steps + (steps.round() - steps).detach()
            found[node] = self._without_zeros(layer, rounded.clamp(-self._limit, self._limit)) * _column(
                layer
            )
        for node, (layer, steps) in self._biases.items():
            found[node] = steps * layer.output_parameters.scale
        for parameters, logarithm in self._scales.items():
            found[parameters] = logarithm.exp().clamp_min(LEAST_SCALE).reshape(1)
        return found

    def outputs(
        self, inputs: Sequence[torch.Tensor], constants: Mapping[Constant, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return the program's outputs.

        Args:
            inputs: The model's.
            constants: As `constants` gives them.
        """
        values: dict[Node, Any] = given_values(self._exported, inputs)
        for node in self._exported.graph.nodes:
            if node in constants:
                values[node] = constants[node]
            elif node.target is QUANTIZE:
                values[node] = self._fake_quantized(node, values[operand(node)], constants)
            elif node.target is DEQUANTIZE and operand(node) in self._shared:
                values[node] = values[operand(node)]
            elif node.op == "call_function":
                values[node] = computed_value(node, values)
        return [values[node] for node in output_nodes(self._exported.graph)]

    def written(self) -> ExportedProgram:
        """Return the quantized program with the parameters as they are now, biases on the grid."""
        exported = self._with_scales()
        trained = {layer.name: self._trained(layer) for layer in self._layers}
        changed = {}
        for layer in quantized_layers(exported):
            if layer.name not in trained or layer.weights is None:
                continue
            integers, bias = trained[layer.name]
            weights = replace(layer.weights, weight=integers)
            if bias is not None:
                bias = weights.on_bias_grid(bias, layer.input_parameters[0].scale)
            changed[layer.name] = replace(weights, bias=bias)
        return with_weights(exported, changed)

    def _fake_quantized(
        self, node: Node, value: torch.Tensor, constants: Mapping[Constant, torch.Tensor]
    ) -> torch.Tensor:
        parameters = self._shared[node]
        zero_point = torch.tensor([float(parameters.zero_point)])
        bounds = parameters.quant_min, parameters.quant_max
        result: torch.Tensor = torch._fake_quantize_learnable_per_tensor_affine(
            value, constants[parameters], zero_point, *bounds, 1.0
        )
        return result

    def _trained(self, layer: QuantizedLayer) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a layer's integers and its bias."""
        _, steps = self._weights[operand(layer.compute, 1)]
        integers = self._without_zeros(layer, steps.round().clamp(-self._limit, self._limit)).to(torch.int8)
        node = layer.compute.args[2] if len(layer.compute.args) > 2 else None
        if not isinstance(node, Node) or node not in self._biases:
            return integers, None
        return integers, self._biases[node][1] * layer.output_parameters.scale

    def _without_zeros(self, layer: QuantizedLayer, steps: torch.Tensor) -> torch.Tensor:
        """Return the steps of a layer's weight, 0 where they stay 0: such weights have no gradient."""
        zeros = self._zeros.get(layer.name)
        return steps if zeros is None else steps.masked_fill(zeros, 0.0)

    def _with_scales(self) -> ExportedProgram:
        editor = ProgramEditor(self._exported)
        named = {node.name: parameters for node, parameters in self._shared.items()}
        scales = {
            parameters: float(logarithm.exp().clamp_min(LEAST_SCALE))
            for parameters, logarithm in self._scales.items()
            if logarithm != torch.tensor(math.log(parameters.scale))  # the logarithm loses the last bits
        }
        for node in editor.calls(QUANTIZE, DEQUANTIZE):
            source = node if node.target is QUANTIZE else operand(node)
            scale = scales.get(named[source.name]) if source.name in named else None
            if scale is not None:
                node.update_arg(1, scale)
        return editor.finish()


def _column(layer: QuantizedLayer) -> torch.Tensor:
    """Return the scales of a layer's weight in a shape that broadcasts to it."""
    assert layer.weights is not None
    weight = layer.weights.weight
    return layer.weights.scales.reshape(-1, *[1] * (weight.dim() - 1))
