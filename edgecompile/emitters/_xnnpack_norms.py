"""Normalizations from parts that XNNPACK has: means, subtraction, multiplication, reciprocal square root."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from edgecompile.emitters._xnnpack_reductions import insert_mean
from edgecompile.graph_edit import ProgramEditor, shape_of
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view

aten = torch.ops.aten


def layer_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute (x - mean) * rsqrt(mean((x - mean)^2) + eps) * weight + bias (Ba et al. 2016)."""
    source, shape, weight, bias, eps = _arguments(node, [None, None, 1e-5])
    rank = len(shape_of(source))
    result = _standardized(editor, node, source, range(rank - len(shape), rank), eps)
    return None if result is None else _affine(editor, node, result, weight, bias)


def rms_norm(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute x * rsqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""
    source, shape, weight, eps = _arguments(node, [None, None])
    rank = len(shape_of(source))
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    result = _over_rms(editor, node, source, range(rank - len(shape), rank), eps)
    return None if result is None else _affine(editor, node, result, weight, None)


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
    weight, bias = (_reshaped(editor, value, channel) for value in (weight, bias))
    return _affine(editor, node, result, weight, bias)


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


def _reshaped(editor: ProgramEditor, value: Node | None, shape: list[int]) -> Node | None:
    constant = editor.constant(value)
    if constant is None:
        return value
    return editor.add_constant(f"{cast('Node', value).name}_channels", constant.reshape(shape))


def _standardized(
    editor: ProgramEditor, node: Node, source: Node, axes: Sequence[int] | range, eps: float
) -> Node | None:
    mean = insert_mean(editor, node, source, list(axes))
    if mean is None:
        return None
    return _over_rms(editor, node, editor.insert(node, aten.sub.Tensor, source, mean), axes, eps)


def _over_rms(
    editor: ProgramEditor, node: Node, source: Node, axes: Sequence[int] | range, eps: float
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
