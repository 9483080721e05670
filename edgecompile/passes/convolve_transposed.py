"""Express transposed convolutions as convolutions, which every engine has in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, per_axis, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import are_fixed, fixed_sizes, insert_view
from edgecompile.program import Reason

aten = torch.ops.aten

_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)


class ConvolveTransposed:
    """Rewrite transposed convolutions, and `col2im`, by the values that a stride of s puts beside each other.

    Before: `conv_transpose2d(x (N, C, H, W), weight (C, D, 4, 4), stride 2, padding 1) -> (N, D, 2H, 2W)`
    After:  `conv2d(x, weight (4D, C, 2, 2), padding 1) -> pixel_shuffle(2) -> slice -> (N, D, 2H, 2W)`

    An output at s * i + p is a convolution of the inputs at i, i - 1, ... with each s-th weight from the p-th
    on: there are s * s such convolutions, the channels that `pixel_shuffle` interleaves (Shi et al., 2016,
    "Is the deconvolution layer the same as a convolutional layer?"). A kernel that s does not divide gets
    zeros.

    `col2im`, which adds overlapping patches up, is a transposed convolution with a one-hot weight.

    Declines when its weight is computed, when it is dilated, when it does not compute in float32, and when a
    size other than the batch is dynamic.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without transposed convolutions."""
        return rewrite_calls(
            program, {**dict.fromkeys(_TRANSPOSED, _transposed), aten.col2im.default: _sum_of_patches}
        )


@dataclass(frozen=True)
class _Layer:
    """A transposed convolution along one or two axes.

    Attributes:
        source: Its input, (N, C, *sizes).
        weight: (C, D / groups, *kernel).
        bias: (D), or None.
        result: The sizes of its output (N, D, *sizes), -1 for a dynamic one.
    """

    source: Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: list[int]
    padding: list[int]
    groups: int
    result: list[int]


def _transposed(editor: ProgramEditor, node: Node) -> Node | str:
    rank = 1 if node.target is aten.conv_transpose1d.default else 2
    defaults: tuple[Any, ...] = (None, 1, 0, 0, 1, 1)
    rest = (*node.args[2:], *defaults[len(node.args) - 2 :])
    stride, padding, _, dilation = (per_axis(rest[at], rank) for at in (1, 2, 3, 5))
    weight, bias = editor.constant(node.args[1]), editor.constant(rest[0])
    if weight is None or (bias is None and rest[0] is not None):
        return Reason("its weight or bias is not a constant", change="make it a parameter or a buffer")
    if dilation != [1] * rank:
        return Reason("it is dilated", change="use a dilation of 1")
    result = _result(node, rank)
    if isinstance(result, str):
        return result
    layer = _Layer(operand(node), weight, bias, stride, padding, cast("int", rest[4]), result)
    return _interleaved(editor, node, layer)


def _sum_of_patches(editor: ProgramEditor, node: Node) -> Node | str:
    kernel, dilation, padding, stride = (cast("list[int]", item) for item in node.args[2:6])
    result = _result(node, 2)
    if isinstance(result, str):
        return result
    if dilation != [1, 1]:
        return Reason("it is dilated", change="use a dilation of 1")
    places, channels = math.prod(kernel), result[1]
    height, width = (
        (size + 2 * pad - length) // step + 1
        for size, pad, length, step in zip(result[2:], padding, kernel, stride, strict=True)
    )
    patches = insert_view(editor, node, operand(node), [result[0], places * channels, height, width])
    weight = torch.eye(places).reshape(places, 1, *kernel).repeat(channels, 1, 1, 1)
    layer = _Layer(patches, weight, None, stride, padding, channels, result)
    return _interleaved(editor, node, layer)


def _result(node: Node, rank: int) -> list[int] | str:
    """Return the sizes of a result, or why it cannot be rewritten."""
    if node.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    result = fixed_sizes(node)
    if result is None or not are_fixed(operand(node)):
        return Reason("a size other than the batch is dynamic", change="fix all sizes but those of the batch")
    if len(result) != rank + 2:
        return Reason("its input has no batch dimension", change="give the model inputs with a batch of 1")
    return result


def _interleaved(editor: ProgramEditor, node: Node, layer: _Layer) -> Node:
    rank, sizes = len(layer.stride), cast("list[int]", list(shape_of(layer.source)[2:]))
    wanted = layer.result[2:]
    # What the first and the last patch reach beyond the crop is dropped; with output padding, it is more.
    reach = [
        max(length, pad + size - (count - 1) * step)
        for length, pad, size, count, step in zip(
            layer.weight.shape[2:], layer.padding, wanted, sizes, layer.stride, strict=True
        )
    ]
    taps = [-(-length // step) for length, step in zip(reach, layer.stride, strict=True)]
    weight = editor.add_constant(f"{node.name}_weight", _phases(layer, taps))
    phases = math.prod(layer.stride)
    bias = None
    if layer.bias is not None:
        bias = editor.add_constant(f"{node.name}_bias", layer.bias.repeat_interleave(phases))
    operator = aten.conv1d.default if rank == 1 else aten.conv2d.default
    margins = [count - 1 for count in taps]
    value = editor.insert(
        node, operator, layer.source, weight, bias, [1] * rank, margins, [1] * rank, layer.groups
    )
    value = _shuffled(editor, node, value, layer)
    for axis, (pad, size) in enumerate(zip(layer.padding, wanted, strict=True), start=2):
        if shape_of(value)[axis] != size:
            value = editor.insert(node, aten.slice.Tensor, value, axis, pad, pad + size)
    return value


def _phases(layer: _Layer, taps: list[int]) -> torch.Tensor:
    """Return the weight of the convolution, (D * phases, C / groups, *taps)."""
    stride, rank = layer.stride, len(layer.stride)
    weight = layer.weight
    missing = [
        count * step - length for count, step, length in zip(taps, stride, weight.shape[2:], strict=True)
    ]
    margins = [margin for size in reversed(missing) for margin in (0, size)]
    whole = torch.nn.functional.pad(weight, margins)
    channels, outputs = whole.shape[:2]
    inside = channels // layer.groups
    split = [item for pair in zip(taps, stride, strict=True) for item in pair]
    whole = whole.reshape(layer.groups, inside, outputs, *split)
    tap_axes = [3 + 2 * axis for axis in range(rank)]
    # A convolution reads from the first input on, a transposed one from the last.
    whole = whole.flip(tap_axes).permute(0, 2, *(axis + 1 for axis in tap_axes), 1, *tap_axes)
    return whole.reshape(layer.groups * outputs * math.prod(stride), inside, *taps)


def _shuffled(editor: ProgramEditor, node: Node, value: Node, layer: _Layer) -> Node:
    """Put the values of each phase beside each other."""
    stride = layer.stride
    if math.prod(stride) == 1:
        return value
    if len(stride) == 2 and stride[0] == stride[1]:
        return editor.insert(node, aten.pixel_shuffle.default, value, stride[0])
    batch, channels = layer.result[:2]
    sizes = cast("list[int]", list(shape_of(value)[2:]))
    rank = len(stride)
    apart = insert_view(editor, node, value, [batch, channels, *stride, *sizes])
    order = [axis for at in range(rank) for axis in (2 + rank + at, 2 + at)]
    beside = editor.insert(node, aten.permute.default, apart, [0, 1, *order])
    together = [size * step for size, step in zip(sizes, stride, strict=True)]
    return insert_view(editor, node, beside, [batch, channels, *together])
