"""Fold constant factors and offsets into the convolution or linear layer before them."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name, shape_of
from edgecompile.graph_pass import PassOutcome, outcome

aten = torch.ops.aten

_FEATURES: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 1, aten.linear.default: -1}
_ARITHMETIC = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor)


class FoldScales:
    """Fold what multiplies or shifts a layer's features with constants: layer scale, temperatures, biases.

    Before: `x (N, L, C) -> linear(weight (K, C), bias) -> mul(scale (K)) -> add(shift)`
    After:  `x -> linear(weight * scale, bias * scale + shift)`

    Computed in float64 and rounded once.

    Declines when the layer's value is used elsewhere too, or its weight or bias is computed.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with factors and offsets folded."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_ARITHMETIC):
            constant = _constant_operand(editor, node)
            layer = next((item for item in node.all_input_nodes if item.target in _FEATURES), None)
            values = None if constant is None or layer is None else _by_feature(constant, node, layer)
            if layer is None or values is None:
                continue
            reason = _why_not(editor, node, layer)
            if reason is None:
                _fold(editor, node, layer, values)
            else:
                declined.append(decline(node, reason, what=operator_name(node)))
        return outcome(editor, declined)


def _constant_operand(editor: ProgramEditor, node: Node) -> torch.Tensor | None:
    """Return the number or constant that a node computes with; None where there is none."""
    if node.kwargs or len(node.args) != 2 or node.meta["val"].dtype != torch.float32:
        return None
    right_only = node.target in (aten.div.Tensor, aten.sub.Tensor)
    for argument in node.args[1:] if right_only else reversed(node.args):
        if isinstance(argument, int | float):
            return torch.tensor(float(argument), dtype=torch.float64)
        constant = editor.constant(argument)
        if constant is not None and constant.is_floating_point():
            return constant.double()
    return None


def _by_feature(constant: torch.Tensor, node: Node, layer: Node) -> torch.Tensor | None:
    """Return a constant as one value a feature, (K,); None where it differs along another axis."""
    rank, axis = len(shape_of(layer)), _FEATURES[layer.target]
    features = shape_of(layer)[axis]
    if len(shape_of(node)) != rank or constant.dim() > rank or not isinstance(features, int):
        return None
    aligned = constant.reshape([1] * (rank - constant.dim()) + list(constant.shape))
    others = [size for place, size in enumerate(aligned.shape) if place != axis % rank]
    if any(size != 1 for size in others) or aligned.shape[axis] not in (1, features):
        return None
    return aligned.flatten().expand(features)


def _why_not(editor: ProgramEditor, node: Node, layer: Node) -> str | None:
    if len(layer.users) > 1:
        return f"the value of {layer.name} is used elsewhere too"
    bias = layer.args[2] if len(layer.args) > 2 else None
    if editor.constant(layer.args[1]) is None or (bias is not None and editor.constant(bias) is None):
        return f"the weight or bias of {layer.name} is computed, not constant"
    return None


def _fold(editor: ProgramEditor, node: Node, layer: Node, values: torch.Tensor) -> None:
    weight = editor.constant(layer.args[1])
    assert weight is not None
    old = editor.constant(layer.args[2]) if len(layer.args) > 2 else None
    bias = torch.zeros(len(values), dtype=torch.float64) if old is None else old.double()
    new_weight = weight.double()
    if node.target in (aten.mul.Tensor, aten.div.Tensor):
        factors = values if node.target is aten.mul.Tensor else 1 / values
        new_weight = new_weight * factors.reshape(-1, *[1] * (weight.dim() - 1))
        bias = bias * factors
        layer.update_arg(1, editor.add_constant(f"{layer.name}_weight", new_weight.to(weight.dtype)))
    else:
        bias = bias + (values if node.target is aten.add.Tensor else -values)
    if old is not None or bool(bias.any()):
        stored = editor.add_constant(f"{layer.name}_bias", bias.to(weight.dtype))
        layer.args = (*layer.args[:2], stored, *layer.args[3:])
    editor.replace(node, layer)
