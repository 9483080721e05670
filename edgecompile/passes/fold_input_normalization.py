"""Fold a constant normalization of the input (mean and standard deviation) into the first convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten
_AFFINE = (aten.sub.Tensor, aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor)
_IN_THE_APP = "normalize in the app, and take it out of the model"


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """`scale * x + shift` per input channel, both of shape (C,), in float64."""

    scale: torch.Tensor
    shift: torch.Tensor

    @property
    def zero(self) -> torch.Tensor:
        """The input value that becomes zero: what zero padding means before the normalization."""
        return -self.shift / self.scale


class FoldInputNormalization:
    """Fold `(x - mean) / std` on an input of the model into the convolution that reads it.

    Before: `x (N, 3, H, W) -> sub(mean (3, 1, 1)) -> div(std (3, 1, 1)) -> conv2d(weight, bias)`
    After:  `x -> conv2d(weight / std, bias - sum(weight * mean / std))`

    Where the convolution pads with zeros, those are zeros *after* the normalization. With one mean for
    all channels the padding is made explicit with that mean as its value, which is exact too.

    Declines when the means differ between channels and the convolution pads: then only the scale is
    folded, and one subtraction stays. Declines when something else reads the normalized input, when the
    convolution is grouped or its weight or bias is computed, and when an explicit padding stands between.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with the normalization folded."""
        editor = ProgramEditor(program)
        declined = []
        for source in editor.graph.find_nodes(op="placeholder"):
            if not editor.is_user_input(source) or source.meta["val"].dim() != 4:
                continue
            chain = _normalization(editor, source)
            if not chain:
                continue
            reason = _fold(editor, source, chain)
            if reason is not None:
                declined.append(decline(chain[0], reason, what="input normalization"))
        return outcome(editor, declined)


def _normalization(editor: ProgramEditor, source: Node) -> list[Node]:
    """Return the calls from the input on that scale or shift it by constants, each the only reader."""
    chain: list[Node] = []
    node = source
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target not in _AFFINE or _operand(user, node) is None or user.kwargs:
            break
        if user.meta["val"].dtype != source.meta["val"].dtype:
            break  # it converts integers
        if _channel_values(editor, user, node) is None:
            break
        chain.append(user)
        node = user
    return chain


def _operand(node: Node, source: Node) -> object:
    """Return the other operand of a call, or None where the call does not scale or shift `source`."""
    left, right = node.args[:2]
    if left is source:
        return right
    return left if node.target in (aten.add.Tensor, aten.mul.Tensor) else None


def _channel_values(editor: ProgramEditor, node: Node, source: Node) -> torch.Tensor | None:
    """Return the constant operand as (C,) values, or None if it is no constant for each channel."""
    operand = _operand(node, source)
    channels = int(shape_of(node)[1])
    if isinstance(operand, int | float):
        return torch.full((channels,), float(operand), dtype=torch.float64)
    value = editor.constant(operand)
    if value is None or value.numel() not in (1, channels):
        return None
    if value.numel() > 1 and (value.dim() < 3 or value.shape[-3] != channels):
        return None
    return value.double().reshape(-1).expand(channels)


def _affine(editor: ProgramEditor, source: Node, chain: list[Node]) -> _Affine:
    scale = torch.ones(int(shape_of(chain[0])[1]), dtype=torch.float64)
    shift = torch.zeros_like(scale)
    for before, node in zip([source, *chain], chain, strict=False):
        value = _channel_values(editor, node, before)
        assert value is not None
        if node.target is aten.add.Tensor:
            shift = shift + value
        elif node.target is aten.sub.Tensor:
            shift = shift - value
        elif node.target is aten.mul.Tensor:
            scale, shift = scale * value, shift * value
        else:
            scale, shift = scale / value, shift / value
    return _Affine(scale=scale, shift=shift)


def _fold(editor: ProgramEditor, source: Node, chain: list[Node]) -> str | None:  # noqa: PLR0911
    """Fold as much as is exact; return why something stays, or None if nothing does."""
    last = chain[-1]
    if len(last.users) != 1:
        return Reason("the normalized input is read more than once", change=_IN_THE_APP)
    conv = next(iter(last.users))
    if conv.target is aten.constant_pad_nd.default or conv.target is aten.pad.default:
        return Reason(
            "an explicit padding stands between it and the convolution",
            change="pad before the normalization, or let the convolution pad",
        )
    if conv.target is aten.conv2d.padding:
        return Reason(
            f"the convolution's padding {conv.args[4:5]!r} is a word, not numbers",
            change="give the padding as numbers",
        )
    if conv.target is not aten.conv2d.default or conv.args[0] is not last:
        return Reason("no convolution reads it", change=_IN_THE_APP)
    groups = conv.args[6] if len(conv.args) > 6 else 1
    weight = editor.constant(conv.args[1])
    bias = conv.args[2] if len(conv.args) > 2 else None
    if weight is None or groups != 1 or (bias is not None and editor.constant(bias) is None):
        return Reason(
            "the convolution that reads it is grouped, or its weight or bias is not constant",
            change=_IN_THE_APP,
        )
    affine = _affine(editor, source, chain)
    if bool((affine.scale == 0).any()):
        return Reason("it multiplies a channel by zero", change="leave that channel out of the input")
    padding = cast("list[int]", conv.args[4]) if len(conv.args) > 4 else [0, 0]
    # Not `==`: with several standard deviations one mean is computed with several roundings.
    one_zero = torch.allclose(affine.zero, affine.zero[0], rtol=1e-12, atol=0)
    exact = not any(padding) or bool((affine.shift == 0).all())
    if exact or one_zero:
        new_input = source
        if not exact:
            pads = [padding[-1], padding[-1], padding[0], padding[0]]
            value = float(affine.zero[0])
            new_input = editor.insert(conv, aten.constant_pad_nd.default, source, pads, value, like=last)
            conv.update_arg(4, [0, 0])
        _rescale(editor, conv, weight, affine)
        conv.update_arg(0, new_input)
        _erase(editor, chain)
        return None
    if len(chain) > 1:
        offset = editor.add_constant("input_offset", affine.zero.to(weight.dtype).reshape(1, -1, 1, 1))
        shifted = editor.insert(conv, aten.sub.Tensor, source, offset, like=last)
        scale_only = _Affine(scale=affine.scale, shift=torch.zeros_like(affine.shift))
        _rescale(editor, conv, weight, scale_only)
        conv.update_arg(0, shifted)
        _erase(editor, chain)
    return Reason(
        "the convolution pads with zeros, which are zeros after the subtraction of a mean that differs "
        "between channels: the subtraction stays",
        change=_IN_THE_APP,
    )


def _rescale(editor: ProgramEditor, conv: Node, weight: torch.Tensor, affine: _Affine) -> None:
    scaled = weight.double() * affine.scale.reshape(1, -1, 1, 1)  # (K, C, kh, kw)
    moved = (weight.double() * affine.shift.reshape(1, -1, 1, 1)).sum((1, 2, 3))  # (K,)
    old_bias = editor.constant(conv.args[2]) if len(conv.args) > 2 else None
    bias = moved if old_bias is None else old_bias.double() + moved
    conv.update_arg(1, editor.add_constant(f"{conv.name}_weight", scaled.to(weight.dtype)))
    if len(conv.args) == 2:
        conv.args = (*conv.args, None)
    conv.update_arg(2, editor.add_constant(f"{conv.name}_bias", bias.to(weight.dtype)))


def _erase(editor: ProgramEditor, chain: list[Node]) -> None:
    for node in reversed(chain):
        editor.graph.erase_node(node)
    editor.rewrites += len(chain)
