"""Fold constant factors and offsets into the convolution or linear layer before or after them."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.passes.canonicalize_views import PERMUTES, VIEWS

aten = torch.ops.aten

_FEATURES: dict[Any, int] = {aten.conv1d.default: 1, aten.conv2d.default: 1, aten.linear.default: -1}
# What of a factor: twice the input is twice the output. Of the others only where the factor is positive.
_LINEAR = (aten.avg_pool2d.default,)
_MONOTONE = (aten.relu.default, aten.max_pool2d.default)
_ARITHMETIC = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor)


class FoldScales:
    """Fold what multiplies or shifts a layer's features with constants: layer scale, temperatures, biases.

    Before: `x (N, L, C) -> linear(weight (K, C), bias) -> mul(scale (K)) -> add(shift)`
    After:  `x -> linear(weight * scale, bias * scale + shift)`

    Before: `x (N, L, C) -> relu -> mul(scale (C)) -> add(shift (C)) -> linear(weight (K, C), bias)`
    After:  `x -> relu -> linear(weight * scale, bias + sum(weight * shift))`

    Before: `x (N, L, C) -> linear(weight (K, C), bias) -> view -> permute (N, H, L, K / H) -> mul(0.125)`
    After:  `x -> linear(weight * 0.125, bias * 0.125) -> view -> permute`

    A factor goes past average pooling to the layers behind it, a positive one past relu and max pooling too.
    Computed in float64 and rounded once.

    Declines when the layer's value is used elsewhere too, also between layer and factor, or its weight or
    bias is computed; of a layer after it also when something else reads what is multiplied or shifted, and
    when it is shifted and the layer pads with zeros, which would have to be shifted too.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with factors and offsets folded."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_ARITHMETIC):
            found = ((item, _layer_before(item)) for item in node.all_input_nodes)
            source, layer = next((pair for pair in found if pair[1] is not None), (node, None))
            if layer is None:
                continue
            values = (
                _by_feature(editor, node, layer)
                if source is layer
                else _one_value(editor, node, source, layer)
            )
            if values is None:
                continue
            reason = _why_not(editor, source, layer)
            if reason is None:
                _fold(editor, node, layer, values)
                editor.replace(node, source)
            else:
                declined.append(decline(node, reason, what=operator_name(node)))
        for node in reversed(list(editor.calls(*_ARITHMETIC))):
            reason = _fold_into_readers(editor, node)
            if reason is not None:
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


def _by_feature(editor: ProgramEditor, node: Node, layer: Node) -> torch.Tensor | None:
    """Return what a node computes with as one value a feature, (K,); None where it is not that.

    Args:
        editor: Has the constants.
        node: Has the shape of the layer's result, or of its input.
        layer: Says which axis has the features.
    """
    constant = _constant_operand(editor, node)
    rank, axis = len(shape_of(layer)), _FEATURES[layer.target]
    if constant is None or len(shape_of(node)) != rank or constant.dim() > rank:
        return None
    features = shape_of(node)[axis]
    aligned = constant.reshape([1] * (rank - constant.dim()) + list(constant.shape))
    others = [size for place, size in enumerate(aligned.shape) if place != axis % rank]
    if any(size != 1 for size in others) or aligned.shape[axis] not in (1, features):
        return None
    return aligned.flatten().expand(features) if isinstance(features, int) else None


def _layer_before(node: Node) -> Node | None:
    """Return the layer whose values a node gives, where nothing but their places and shape was changed."""
    while node.target in (*VIEWS, *PERMUTES):
        node = node.all_input_nodes[0]
    return node if node.target in _FEATURES else None


def _one_value(editor: ProgramEditor, node: Node, source: Node, layer: Node) -> torch.Tensor | None:
    """Return the one number that a node computes with, for each of a layer's features, (K,)."""
    constant, features = _constant_operand(editor, node), shape_of(layer)[_FEATURES[layer.target]]
    if constant is None or constant.numel() > 1 or constant.dim() > len(shape_of(source)):
        return None
    return constant.flatten().expand(features) if isinstance(features, int) else None


def _why_not(editor: ProgramEditor, source: Node, layer: Node) -> str | None:
    node = source
    while len(node.users) == 1 and node is not layer:
        node = node.all_input_nodes[0]
    if len(node.users) > 1:
        return f"the value of {node.name} is used elsewhere too"
    return _why_not_its_weights(editor, layer)


def _why_not_its_weights(editor: ProgramEditor, layer: Node) -> str | None:
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


def _fold_into_readers(editor: ProgramEditor, node: Node) -> str | None:
    """Fold a factor or an offset into all layers that read it; return why not, None where none does."""
    constant, scales = _constant_operand(editor, node), node.target in (aten.mul.Tensor, aten.div.Tensor)
    if constant is None:
        return None
    past = (*_LINEAR, *_MONOTONE) if bool((constant > 0).all()) else _LINEAR
    layers, is_read_elsewhere = _layers_behind(node, past if scales else ())
    values = [_by_feature(editor, node, layer) for layer in layers]
    if not layers or any(item is None for item in values):
        return None
    if is_read_elsewhere:
        return "something else than layers reads it too"
    for layer in layers:
        if not scales and _pads(layer):
            return f"{layer.name} pads it with zeros, which would have to be shifted too"
        reason = _why_not_its_weights(editor, layer)
        if reason is not None:
            return reason
    for layer, item in zip(layers, values, strict=True):
        assert item is not None
        _fold_into_input(editor, node, layer, item)
    (source,) = (item for item in node.all_input_nodes if editor.constant(item) is None)
    editor.replace(node, source)
    return None


def _layers_behind(node: Node, past: tuple[Any, ...]) -> tuple[list[Node], bool]:
    """Return the layers that read a value, or what some operators make of it, and whether others do."""
    layers, is_read_elsewhere = [], False
    for user in node.users:
        if user.target in _FEATURES and user.args[0] is node:
            layers.append(user)
        elif user.target in past:
            behind, others = _layers_behind(user, past)
            layers += behind
            is_read_elsewhere = is_read_elsewhere or others
        else:
            is_read_elsewhere = True
    return layers, is_read_elsewhere


def _pads(layer: Node) -> bool:
    """Tell whether a layer reads zeros around its input."""
    padding: Any = layer.args[4] if layer.target is not aten.linear.default and len(layer.args) > 4 else 0
    return any(padding) if isinstance(padding, list | tuple) else padding != 0


def _fold_into_input(editor: ProgramEditor, node: Node, layer: Node, values: torch.Tensor) -> None:
    """Let a layer compute with what its input is multiplied or shifted by, (C,)."""
    weight = editor.constant(layer.args[1])
    assert weight is not None
    groups = len(values) // weight.shape[1]
    # (K, C / groups, 1, 1): each group of outputs reads its own channels.
    beside = values.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).flatten(0, 1)
    beside = beside.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
    if node.target in (aten.mul.Tensor, aten.div.Tensor):
        scaled = weight.double() * beside if node.target is aten.mul.Tensor else weight.double() / beside
        layer.update_arg(1, editor.add_constant(f"{layer.name}_weight", scaled.to(weight.dtype)))
        return
    moved = (weight.double() * beside).flatten(1).sum(1)  # (K,)
    old = editor.constant(layer.args[2]) if len(layer.args) > 2 else None
    bias = (0 if old is None else old.double()) + (moved if node.target is aten.add.Tensor else -moved)
    stored = editor.add_constant(f"{layer.name}_bias", bias.to(weight.dtype))
    layer.args = (*layer.args[:2], stored, *layer.args[3:])
