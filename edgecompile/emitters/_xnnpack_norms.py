"""Normalizations from parts that XNNPACK has: means, subtraction, multiplication, reciprocal square root."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from edgecompile.emitters._xnnpack_reductions import insert_mean
from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view
from edgecompile.passes.convolve_linears import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, is_permute
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, parameters_of

aten = torch.ops.aten


def layer_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute (x - mean) * rsqrt(mean((x - mean)^2) + eps) * weight + bias (Ba et al. 2016)."""
    _, shape, weight, bias, eps = _arguments(node, [None, None, 1e-5])
    return _over_last_axes(editor, node, shape, _standardized, eps=eps, weight=weight, bias=bias)


def rms_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute x * rsqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""
    _, shape, weight, eps = _arguments(node, [None, None])
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return _over_last_axes(editor, node, shape, _over_rms, eps=eps, weight=weight, bias=None)


def _over_last_axes(
    editor: ProgramEditor,
    node: Node,
    shape: Sequence[int],
    normed: Callable[[ProgramEditor, Node, Node, Sequence[int], float], Node | None],
    *,
    eps: float,
    weight: Node | None,
    bias: Node | None,
) -> Node | None:
    """Return a norm over the last axes; of channels that come first around it, replace its readers."""
    picture = _picture(editor, node, shape)
    if picture is not None:
        result = normed(editor, node, picture, [1], eps)
        if result is not None:
            _over_channels(editor, node, result, weight, bias)
        return None
    source = operand(node)
    rank = len(shape_of(source))
    result = normed(editor, node, source, range(rank - len(shape), rank), eps)
    return None if result is None else _affine(editor, node, result, weight, bias)


def group_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Standardize groups of channels of (N, C, ...), then scale and shift each channel (Wu and He 2018)."""
    source, groups, weight, bias, eps = _arguments(node, [None, None, 1e-5])
    sizes = fixed_sizes(source)
    if sizes is None:
        return None
    grouped = insert_view(editor, node, source, [sizes[0], groups, math.prod(sizes[1:]) // groups, 1])
    result = _standardized(editor, node, grouped, [2, 3], eps)
    if result is None:
        return None
    result = insert_view(editor, node, result, sizes)
    channel = [-1, *[1] * (len(sizes) - 2)]
    weight, bias = (_reshaped(editor, node, value, channel) for value in (weight, bias))
    return _affine(editor, node, result, weight, bias)


def _picture(editor: ProgramEditor, node: Node, shape: Sequence[int]) -> Node | None:
    """Return what a norm over channels reads, with these first, where only permutes read what it gives."""
    source = operand(node)
    turned = source if source.target is aten.permute.default else _requantized(source)
    if turned is None or len(shape) != 1 or not is_permute(turned, TO_CHANNELS_LAST):
        return None
    parameters = [item for item in node.all_input_nodes if item is not source]
    if any(editor.constant(item) is None for item in parameters):
        return None
    readers = list(_readers(node))
    if not readers or not all(is_permute(reader, TO_CHANNELS_FIRST) for reader in readers):
        return None
    picture = operand(turned)
    if picture.target is DEQUANTIZE:
        # Another reader may be quantized, and the delegate then keeps the integers for all of them.
        picture = editor.insert(node, DEQUANTIZE, *picture.args, keywords=picture.kwargs)
    return picture


def _requantized(node: Node) -> Node | None:
    """Return the move that `dequantize(quantize(move(dequantize(x))))` is of, all of one grid."""
    quantize = node.args[0] if node.target is DEQUANTIZE else None
    move = quantize.args[0] if isinstance(quantize, Node) and quantize.target is QUANTIZE else None
    before = move.args[0] if isinstance(move, Node) and move.args else None
    if not isinstance(quantize, Node) or not isinstance(before, Node) or before.target is not DEQUANTIZE:
        return None
    same_grid = parameters_of(before) == parameters_of(quantize) == parameters_of(node)
    return cast("Node", move) if same_grid else None


def _readers(node: Node) -> Iterator[Node]:
    """Yield the operators that read a value, also those that read it quantized."""
    for user in node.users:
        if user.target in (QUANTIZE, DEQUANTIZE):
            yield from _readers(user)
        else:
            yield user


def _over_channels(
    editor: ProgramEditor, node: Node, value: Node, weight: Node | None, bias: Node | None
) -> None:
    """Scale and shift a norm's channels, which come first, and replace the permutes that put them there."""
    weight, bias = (_reshaped(editor, node, constant, [-1, 1, 1]) for constant in (weight, bias))
    result = _affine(editor, node, value, weight, bias)
    _replace_turned(editor, node, result)


def _replace_turned(editor: ProgramEditor, node: Node, result: Node) -> None:
    for user in list(node.users):
        if user.target in (QUANTIZE, DEQUANTIZE):
            _replace_turned(editor, user, editor.insert(node, user.target, result, *user.args[1:]))
            continue
        for reader in list(user.users):
            is_again = reader.target is QUANTIZE and result.target is DEQUANTIZE
            if is_again and parameters_of(reader) == parameters_of(result):
                reader.replace_all_uses_with(operand(result))  # a permute keeps the grid
        editor.replace(user, result)


def _arguments(node: Node, defaults: list[Any]) -> list[Any]:
    """Return the first two arguments and the optional ones after them, with their defaults."""
    schema = [item.name for item in node.target._schema.arguments]  # type: ignore[union-attr]
    given = [*node.args]
    names = schema[len(given) : 2 + len(defaults)]
    missing = defaults[max(len(given) - 2, 0) :]
    return [
        *given[: 2 + len(defaults)],
        *(node.kwargs.get(name, value) for name, value in zip(names, missing, strict=True)),
    ]


def _reshaped(editor: ProgramEditor, node: Node, value: Node | None, shape: list[int]) -> Node | None:
    constant = editor.constant(value)
    if constant is None:
        return value and insert_view(editor, node, value, shape)
    return editor.add_constant(f"{cast('Node', value).name}_channels", constant.reshape(shape))


def _standardized(
    editor: ProgramEditor, node: Node, source: Node, axes: Sequence[int], eps: float
) -> Node | None:
    mean = insert_mean(editor, node, source, list(axes))
    if mean is None:
        return None
    return _over_rms(editor, node, editor.insert(node, aten.sub.Tensor, source, mean), axes, eps)


def _over_rms(
    editor: ProgramEditor, node: Node, source: Node, axes: Sequence[int], eps: float
) -> Node | None:
    square = editor.insert(node, aten.mul.Tensor, source, source)
    variance = insert_mean(editor, node, square, list(axes))
    if variance is None:
        return None
    shifted = editor.insert(node, aten.add.Tensor, variance, eps)
    return editor.insert(node, aten.mul.Tensor, source, editor.insert(node, aten.rsqrt.default, shifted))


def _affine(editor: ProgramEditor, node: Node, value: Node, weight: Node | None, bias: Node | None) -> Node:
    if weight is not None:
        value = editor.insert(node, aten.mul.Tensor, value, weight)
    return value if bias is None else editor.insert(node, aten.add.Tensor, value, bias)
