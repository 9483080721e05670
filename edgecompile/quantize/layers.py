"""The quantized program as a list of layers: what the reference, the emitters and the checks share.

A quantized layer is the float region between dequantize nodes and one quantize node::

    dequantize(x) -> [constant_pad_nd] -> conv2d(dequantize(weight), bias) -> [relu] -> quantize

It has one computing node, at most one zero padding before it and one clamp after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers quantized_decomposed
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from edgecompile.graph_edit import operator_name, shape_of, source_line

aten = torch.ops.aten
quantized_decomposed = torch.ops.quantized_decomposed

QUANTIZE = quantized_decomposed.quantize_per_tensor.default
DEQUANTIZE = quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_PER_CHANNEL = quantized_decomposed.dequantize_per_channel.default

WEIGHTED = (aten.conv1d.default, aten.conv2d.default, aten.linear.default)
CLAMPS = (aten.relu.default, aten.hardtanh.default)
# What these give lies within bounds, for which QNNPACK's kernels have this scale and zero point.
BOUNDED: dict[Any, tuple[float, int]] = {
    aten.sigmoid.default: (1 / 256, -128),
    aten.hardsigmoid.default: (1 / 256, -128),
    aten.tanh.default: (1 / 128, 0),
}


@dataclass(frozen=True, kw_only=True)
class QuantizationParameters:
    """`real = (quantized - zero_point) * scale`, with `quantized` in `[quant_min, quant_max]`."""

    scale: float
    zero_point: int
    quant_min: int
    quant_max: int

    def quantize_bound(self, value: float) -> int:
        """Return the quantized value of a clamp's bound, itself clamped to the range."""
        if math.isinf(value):
            return self.quant_max if value > 0 else self.quant_min
        scaled = torch.round(torch.tensor(value, dtype=torch.float32) / self.scale)
        return min(max(int(scaled) + self.zero_point, self.quant_min), self.quant_max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The constants of a convolution or linear layer.

    Attributes:
        weight: int8, output channels first.
        scales: float32, (K,).
        bias: float32, (K,), on the grid of `input scale * weight scale`; None for no bias.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def on_bias_grid(self, bias: torch.Tensor, input_scale: float) -> torch.Tensor:
        """Return a bias, (K,), rounded to multiples of `input scale * weight scale`, as float32."""
        scale = (self.scales * input_scale).double()
        return (torch.round(bias.double() / scale) * scale).float()


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One unit of a quantized graph.

    Attributes:
        compute: The node that computes (convolution, addition, mean, ...).
    """

    compute: Node

    @property
    def name(self) -> str:
        """The computing node's name: unique in the program."""
        return self.compute.name

    @property
    def kind(self) -> str:
        """The computing operator's short name, `conv2d`."""
        return operator_name(self.compute)

    @property
    def where(self) -> str:
        """The user's source line."""
        return source_line(self.compute)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedLayer(Layer):
    """One unit that computes in integers, with ranges that are fixed.

    Attributes:
        padding: A zero padding before it that belongs to the unit.
        clamp: A relu or hardtanh after it that belongs to the unit.
        inputs: The dequantize nodes that feed it, in the order of its operands.
        output: The quantize node at its end.
        weights: Of a convolution or linear layer, None for others.
    """

    padding: Node | None
    clamp: Node | None
    inputs: tuple[Node, ...]
    output: Node
    weights: Weights | None

    @property
    def sources(self) -> tuple[Node, ...]:
        """The nodes whose int8 values it computes from, in the order of its operands."""
        return tuple(node.args[0] for node in self.inputs)  # type: ignore[misc]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that compute in float between the dequantize nodes and the quantize node, in order."""
        return tuple(node for node in (self.padding, self.compute, self.clamp) if node is not None)

    @property
    def input_parameters(self) -> tuple[QuantizationParameters, ...]:
        """Quantization parameters of the inputs."""
        return tuple(parameters_of(node) for node in self.inputs)

    @property
    def output_parameters(self) -> QuantizationParameters:
        """Quantization parameters of the output."""
        return parameters_of(self.output)

    @property
    def clamp_bounds(self) -> tuple[float, float]:
        """The real bounds of the clamp; infinite where there is none."""
        return (-math.inf, math.inf) if self.clamp is None else clamp_bounds(self.clamp)

    @property
    def quantized_bounds(self) -> tuple[int, int]:
        """The least and greatest value of the output, clamp included."""
        low, high = self.clamp_bounds
        parameters = self.output_parameters
        return parameters.quantize_bound(low), parameters.quantize_bound(high)


def clamp_bounds(node: Node) -> tuple[float, float]:
    """Return the real bounds of a node's value: those of a relu or hardtanh, infinite for others."""
    if node.target not in CLAMPS:
        return -math.inf, math.inf
    if node.target is aten.relu.default:
        return 0.0, math.inf
    low, high = node.args[1:3] if len(node.args) > 2 else (-1.0, 1.0)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    return float(low), float(high)


def parameters_of(node: Node) -> QuantizationParameters:
    """Return the quantization parameters of a per-tensor quantize or dequantize node."""
    scale, zero_point, quant_min, quant_max = node.args[1:5]
    assert isinstance(scale, float)
    assert isinstance(zero_point, int)
    assert isinstance(quant_min, int)
    assert isinstance(quant_max, int)
    return QuantizationParameters(
        scale=scale, zero_point=zero_point, quant_min=quant_min, quant_max=quant_max
    )


def constants_of(exported: ExportedProgram) -> dict[str, torch.Tensor]:
    """Return the values of lifted parameters, buffers and constants by their placeholder's name."""
    return {
        spec.arg.name: (exported.constants if spec.target in exported.constants else exported.state_dict)[
            spec.target
        ]
        for spec in exported.graph_signature.input_specs
        if spec.target is not None
    }


def constant_bytes(exported: ExportedProgram) -> int:
    """Return what the values of parameters, buffers and constants take."""
    return sum(value.nbytes for value in constants_of(exported).values())


def quantized_layers(exported: ExportedProgram) -> tuple[QuantizedLayer, ...]:
    """Return the quantized layers of a program, in topological order."""
    constants = constants_of(exported)
    found = (_layer_at(node, constants) for node in exported.graph.nodes if node.target is QUANTIZE)
    return tuple(layer for layer in found if layer is not None)


def _layer_at(output: Node, constants: dict[str, torch.Tensor]) -> QuantizedLayer | None:
    """Return the layer that ends in a quantize node, or None if what it quantizes was computed in float."""
    node = output.args[0]
    assert isinstance(node, Node)
    clamp = None
    if node.target in CLAMPS and not _is_input(node.args[0]):
        clamp, node = node, node.args[0]
    assert isinstance(node, Node)
    if node.op != "call_function" or node.target in (QUANTIZE, DEQUANTIZE):
        return None
    weights = weights_of(node, constants) if node.target in WEIGHTED else None
    if node.target in WEIGHTED and weights is None:
        return None
    operands = [node.args[0]] if weights is not None else node.all_input_nodes
    if weights is None and node.target in (aten.add.Tensor, aten.mul.Tensor):
        operands = [node.args[0], node.args[1]]  # x + x has one input node and two operands.
    if node.target is aten.cat.default:
        operands = list(node.args[0])  # type: ignore[arg-type]
    padding = None
    first = operands[0] if operands else None
    if weights is not None and isinstance(first, Node) and first.target is aten.constant_pad_nd.default:
        padding, operands = first, [first.args[0]]
    inputs = tuple(operand for operand in operands if _is_input(operand))
    interior = [part for part in (padding, node, clamp) if part is not None]
    if not inputs or len(inputs) != len(operands) or any(len(part.users) != 1 for part in interior):
        return None
    return QuantizedLayer(
        compute=node,
        padding=padding,
        clamp=clamp,
        inputs=inputs,  # type: ignore[arg-type]
        output=output,
        weights=weights,
    )


def _is_input(node: object) -> bool:
    return isinstance(node, Node) and node.target is DEQUANTIZE


def weights_of(node: Node, constants: dict[str, torch.Tensor]) -> Weights | None:
    """Return the constants of a convolution or linear layer, or None where its weight is not quantized."""
    dequantize = node.args[1]
    assert isinstance(dequantize, Node)
    if dequantize.target not in (DEQUANTIZE, DEQUANTIZE_PER_CHANNEL):
        return None
    source = dequantize.args[0]
    assert isinstance(source, Node)
    weight = constants.get(source.name)
    if weight is None:
        return None
    if dequantize.target is DEQUANTIZE_PER_CHANNEL:
        scale_node = dequantize.args[1]
        assert isinstance(scale_node, Node)
        scales = constants[scale_node.name].to(torch.float32)
    else:
        scales = torch.full((weight.shape[0],), parameters_of(dequantize).scale, dtype=torch.float32)
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = constants[bias_node.name] if isinstance(bias_node, Node) else None
    return Weights(weight=weight, scales=scales, bias=bias)


def multiply_accumulates(layer: QuantizedLayer) -> int:
    """Return the multiply-accumulate operations of a layer for one run; 0 where it has no weights."""
    if layer.weights is None:
        return 0
    outputs = math.prod(int(size) for size in shape_of(layer.compute))
    return outputs * math.prod(layer.weights.weight.shape[1:])


def computing_nodes(graph: Graph) -> list[Node]:
    """Return what computes tensors; its order survives annotation, conversion and the second capture."""
    quantization = (QUANTIZE, DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
    return [
        node
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target not in quantization
        if _is_tensor(node.meta.get("val"))
    ]


def _is_tensor(value: object) -> bool:
    """Tell whether a value is a tensor, or several as those of a GRU or a split."""
    several = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(item, torch.Tensor) for item in several)


def described(node: Node) -> str:
    """Return what a report calls an operator that stays in float: `softmax (softmax_1)`."""
    return f"{operator_name(node)} ({node.name})"
