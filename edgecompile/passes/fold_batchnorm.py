"""Fold batch normalization into the convolution or linear layer before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten

# The axis of the output channels in the weight.
_CHANNEL_AXIS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.padding: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.conv_transpose3d.input: 1,
    aten.linear.default: 0,
}
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)


class FoldBatchnorm:
    """Fold `batch_norm` in inference mode into its producer's weight and bias.

    Before: `x (N, C, H, W) -> conv2d(weight (K, C, kh, kw)) -> batch_norm(K) -> y (N, K, H', W')`
    After:  `x -> conv2d(weight * s, (bias - mean) * s + beta) -> y`, with `s = gamma / sqrt(var + eps)`

    Quantization must see the weights that run (Krishnamoorthi 2018, "Quantizing deep convolutional
    networks for efficient inference", 3.2.2). Computed in float64 and rounded once.

    Declines when there is no convolution or linear layer before it, when that layer's value is used
    elsewhere too, when a weight or a statistic is not a constant, when it is a grouped transposed
    convolution, when another axis is normalized, or when the normalization uses batch statistics.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with batch normalization folded."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(aten.batch_norm.default):
            reason = _why_not(editor, node)
            if reason is None:
                _fold(editor, node)
                continue
            declined.append(decline(node, reason, what=operator_name(node)))
        return outcome(editor, declined)


def is_in_inference(editor: ProgramEditor, node: Node) -> str | None:
    """Return why a normalization is no multiplication and addition of constants; None where it is."""
    if node.args[5]:
        return Reason(
            "it normalizes with the statistics of the batch (training mode)",
            change="give the norm running statistics (track_running_stats=True), and train with them",
        )
    if _is_computed(editor, node.args[1:5]):
        return Reason(
            "its weight, bias or statistics are computed, not constant",
            change="store them as parameters or buffers",
        )
    return None


def scale_and_shift(editor: ProgramEditor, node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a normalization in inference multiplies with and then adds, each (C,), in float64."""
    channels = node.meta["val"].shape[1]
    gamma, beta, mean, variance = (
        default if (value := editor.constant(argument)) is None else value.double()
        for argument, default in zip(
            node.args[1:5],
            (torch.ones(channels), torch.zeros(channels), torch.zeros(channels), torch.ones(channels)),
            strict=True,
        )
    )
    eps = node.args[7]
    assert isinstance(eps, float)
    scale = gamma / torch.sqrt(variance + eps)
    return scale, beta - mean * scale


def _why_not(editor: ProgramEditor, node: Node) -> str | None:  # noqa: PLR0911 (one guard a line)
    layer = node.args[0]
    reason = is_in_inference(editor, node)
    if reason is not None:
        return reason
    if not isinstance(layer, Node) or layer.target not in _CHANNEL_AXIS:
        return Reason(
            "no convolution or linear layer stands before it",
            change="put the norm right after a convolution or linear layer, before the activation",
        )
    if len(layer.users) > 1:
        return Reason(
            f"the value of {layer.name} is used elsewhere too", change="let the norm alone read that layer"
        )
    weight = editor.constant(layer.args[1])
    if weight is None or _is_computed(editor, layer.args[2:3]):
        return Reason(
            f"the weight or bias of {layer.name} is computed, not constant",
            change="store it as a parameter or buffer",
        )
    if layer.target in _TRANSPOSED and len(layer.args) > 6 and layer.args[6] != 1:
        return Reason(
            f"{layer.name} is a grouped transposed convolution",
            change="use one group, or fold the norm by hand",
        )
    if layer.meta["val"].dim() != weight.dim():
        return Reason(
            f"it normalizes another axis than the features of {layer.name}",
            change="normalize the axis of the layer's features",
        )
    return None


def _is_computed(editor: ProgramEditor, arguments: Sequence[object]) -> bool:
    return any(isinstance(argument, Node) and editor.constant(argument) is None for argument in arguments)


def _fold(editor: ProgramEditor, node: Node) -> None:
    layer = node.args[0]
    assert isinstance(layer, Node)
    weight = editor.constant(layer.args[1])
    assert weight is not None
    scale, shift = scale_and_shift(editor, node)
    old_bias = editor.constant(layer.args[2]) if len(layer.args) > 2 else None
    bias = shift if old_bias is None else old_bias.double() * scale + shift

    shape = [1] * weight.dim()
    shape[_CHANNEL_AXIS[layer.target]] = -1
    new_weight = (weight.double() * scale.reshape(shape)).to(weight.dtype)
    name = layer.name
    layer.args = (
        layer.args[0],
        editor.add_constant(f"{name}_weight", new_weight),
        editor.add_constant(f"{name}_bias", bias.to(weight.dtype)),
        *layer.args[3:],
    )
    editor.replace(node, layer)
