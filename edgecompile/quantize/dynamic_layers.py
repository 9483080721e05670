"""The dynamically quantized program as a list of layers, for the reference, the emitters and the checks.

choose_qparams(x) -> quantize(x) -> dequantize -> linear(dequantize(weight), bias)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.quantize.layers import Layer, Weights, constants_of, weights_of

aten = torch.ops.aten
quantized_decomposed = torch.ops.quantized_decomposed

CHOOSE_PARAMETERS = quantized_decomposed.choose_qparams.tensor
QUANTIZE_DYNAMIC = quantized_decomposed.quantize_per_tensor.tensor
DEQUANTIZE_DYNAMIC = quantized_decomposed.dequantize_per_tensor.tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicLayer(Layer):
    """One linear layer whose input is quantized at run time; its value is in float.

    Attributes:
        source: What is quantized, in float: (..., K).
        interior: The nodes between: the choice of the parameters, quantize, dequantize, and the
            dequantize node of the weight.
        weights: int8 (N, K) with a scale for each of the N outputs.
    """

    source: Node
    interior: tuple[Node, ...]
    weights: Weights


def dynamic_layers(exported: ExportedProgram) -> tuple[DynamicLayer, ...]:
    """Return the layers that are quantized at run time, in order."""
    constants = constants_of(exported)
    found = (_layer_at(node, constants) for node in exported.graph.nodes)
    return tuple(layer for layer in found if layer is not None)


def _layer_at(node: Node, constants: dict[str, torch.Tensor]) -> DynamicLayer | None:
    dequantize = node.args[0] if node.target is aten.linear.default else None
    if not isinstance(dequantize, Node) or dequantize.target is not DEQUANTIZE_DYNAMIC:
        return None
    weights = weights_of(node, constants)
    quantize = dequantize.args[0]
    assert weights is not None
    assert isinstance(quantize, Node)
    source, scale, zero_point = quantize.args[:3]
    assert isinstance(source, Node)
    assert isinstance(scale, Node)
    assert isinstance(zero_point, Node)
    return DynamicLayer(
        compute=node,
        source=source,
        interior=(*scale.all_input_nodes, scale, zero_point, quantize, dequantize, node.args[1]),  # type: ignore[arg-type]
        weights=weights,
    )


def with_float_activations(exported: ExportedProgram) -> ExportedProgram:
    """Return a program without the quantization at run time, for an engine whose kernels do it themselves."""
    editor = ProgramEditor(exported)
    for layer in editor.calls(aten.linear.default):
        dequantize = layer.args[0]
        if isinstance(dequantize, Node) and dequantize.target is DEQUANTIZE_DYNAMIC:
            layer.update_arg(0, dequantize.args[0].args[0])  # type: ignore[union-attr]
    editor.graph.eliminate_dead_code()
    return editor.finish()
