"""Recognize activations that are written out, by what they compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn import functional

from edgecompile.graph_edit import ProgramEditor
from edgecompile.graph_pass import PassOutcome
from edgecompile.graph_region import evaluated, recognized, regions_before

aten = torch.ops.aten

# What an activation may be written with; the values are all of one tensor, the rest are numbers.
_PARTS = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.rsub.Scalar,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.neg.default,
    aten.pow.Tensor_Scalar,
    aten.square.default,
    aten.exp.default,
    aten.erf.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.softplus.default,
    aten.log1p.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.to.dtype,
)
# How a model chooses between two lines; it compares with numbers.
_CHOICES = (
    aten.where.self,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.maximum.default,
    aten.minimum.default,
    aten.max.other,
    aten.min.other,
)
_COMPARISONS = tuple(getattr(aten, name).Scalar for name in ("gt", "ge", "lt", "le"))
_ACTIVATIONS: tuple[
    tuple[Callable[[torch.Tensor], torch.Tensor], Any, tuple[Any, ...], dict[str, Any]], ...
] = (
    (functional.silu, aten.silu.default, (), {}),
    (functional.hardswish, aten.hardswish.default, (), {}),
    (functional.hardsigmoid, aten.hardsigmoid.default, (), {}),
    (functional.gelu, aten.gelu.default, (), {}),
    (lambda x: functional.gelu(x, approximate="tanh"), aten.gelu.default, (), {"approximate": "tanh"}),
    (functional.mish, aten.mish.default, (), {}),
    (torch.sigmoid, aten.sigmoid.default, (), {}),
    (functional.relu6, aten.hardtanh.default, (0.0, 6.0), {}),
)
# Where they are compared: everywhere that they bend, and beyond.
_POINTS = torch.cat([torch.linspace(-12, 12, 2401), torch.tensor([-80.0, -40, -20, 20, 40, 80])])
_TOLERANCE = 1e-5


class RecognizeActivations:
    """Rewrite an activation from its parts as the operator that engines have.

    Before: `x (N, C) -> add(3) -> relu6 -> mul(x, .) -> div(6)`
    After:  `x -> hardswish`

    Before: `where(gt(x, 0), x, mul(x, 0.1))`, `maximum(x, mul(x, 0.1))`
    After:  `leaky_relu(x, 0.1)`

    Whatever the parts are: what they compute is evaluated on a grid, and compared with silu, hardswish,
    hardsigmoid, gelu (exact and by tanh), mish, sigmoid, relu6, and what is chosen with relu and leaky relu.

    Declines when something else reads a part of it: it is computed anyway.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with activations in one operator each."""
        return recognized(program, (*_PARTS, *_CHOICES), _recognize)


def _recognize(editor: ProgramEditor, node: Node) -> None:
    for source, region in regions_before(node, (*_PARTS, *_CHOICES, *_COMPARISONS)):
        if not _has_the_same_values(source, node):
            continue
        found = evaluated(source, region, _POINTS)
        for function, target, arguments, keywords in _ACTIVATIONS:
            if torch.allclose(found, function(_POINTS), rtol=_TOLERANCE, atol=_TOLERANCE):
                editor.replace(node, editor.insert(node, target, source, *arguments, keywords=keywords))
                return
        slope = _slope(found) if any(part.target in _CHOICES for part in region) else None
        if slope is not None:
            line = (aten.leaky_relu.default, source, slope) if slope else (aten.relu.default, source)
            editor.replace(node, editor.insert(node, *line))
            return


def _slope(found: torch.Tensor) -> float | None:
    """Return the slope below zero of what is the identity above; None for what bends otherwise."""
    slope = float(f"{(found[0] / _POINTS[0]).item():.6g}")
    expected = torch.where(_POINTS > 0, _POINTS, _POINTS * slope)
    is_close = torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
    return slope if 0 <= slope < 1 and is_close else None


def _has_the_same_values(source: Node, node: Node) -> bool:
    value, other = source.meta.get("val"), node.meta["val"]
    return isinstance(value, torch.Tensor) and value.shape == other.shape and value.dtype == other.dtype
