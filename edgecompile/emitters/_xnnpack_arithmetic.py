"""Arithmetic in the words that XNNPACK has, with numbers of the type that it computes in."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, per_axis
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view

aten = torch.ops.aten
_MOST_FACTORS = 8  # of a power


def hardsigmoid(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute clamp(x / 6 + 1 / 2, 0, 1); the delegate clamps while it adds."""
    scaled = editor.insert(node, aten.mul.Tensor, operand(node), 1 / 6)
    shifted = editor.insert(node, aten.add.Tensor, scaled, 0.5)
    return editor.insert(node, aten.hardtanh.default, shifted, 0.0, 1.0)


def float_number(editor: ProgramEditor, node: Node) -> Node | None:
    """A whole number beside floats becomes a float: the delegate takes no other."""
    numbers = [index for index in (0, 1) if type(node.args[index]) is int]
    if node.kwargs or len(node.args) != 2 or not numbers or node.meta["val"].dtype != torch.float32:
        return None
    arguments = [float(item) if type(item) is int else item for item in node.args]
    return editor.insert(node, node.target, *arguments)  # type: ignore[arg-type]


def power(editor: ProgramEditor, node: Node) -> Node | None:
    """Whole powers as products, roots by name, others by logarithms."""
    source, exponent = operand(node), cast("float", node.args[1])
    names = {0.5: aten.sqrt.default, -0.5: aten.rsqrt.default}
    if exponent in names:
        return editor.insert(node, names[exponent], source)
    if float(exponent).is_integer():
        if exponent == 0 or abs(exponent) > _MOST_FACTORS:
            return None
        product = source
        for _ in range(int(abs(exponent)) - 1):
            product = editor.insert(node, aten.mul.Tensor, product, source)
        return product if exponent > 0 else _one_by(editor, node, product)
    # Of negative values both give NaN.
    logarithms = editor.insert(node, aten.log.default, source)
    return editor.insert(node, aten.exp.default, editor.insert(node, aten.mul.Tensor, logarithms, exponent))


def reciprocal(editor: ProgramEditor, node: Node) -> Node | None:
    """One divided by a value."""
    return _one_by(editor, node, operand(node)) if node.meta["val"].dtype == torch.float32 else None


def _one_by(editor: ProgramEditor, node: Node, value: Node) -> Node:
    one = editor.add_constant(f"{node.name}_one", torch.ones(1))
    return editor.insert(node, aten.div.Tensor, one, value)


def copied(editor: ProgramEditor, node: Node, source: Node, copies: list[int]) -> Node:
    """Repeat a value along its axes of one: a product with ones, which the delegate broadcasts."""
    ones = editor.add_constant(f"{node.name}_copies", torch.ones(copies))
    return editor.insert(node, aten.mul.Tensor, source, ones)


def copies_to(source: Node, sizes: list[int]) -> list[int] | None:
    """Return how often a value is repeated along each axis to have these sizes, as an expand would.

    None where it cannot have them: a batch of unknown size is not copied to.
    """
    own = fixed_sizes(source)
    if own is None or len(own) > len(sizes):
        return None
    pairs = list(zip([1] * (len(sizes) - len(own)) + own, sizes, strict=True))
    if any(one != other and (one != 1 or other == -1) for one, other in pairs):
        return None
    return [1 if one == other else other for one, other in pairs]


def expanded(editor: ProgramEditor, node: Node, source: Node, copies: list[int]) -> Node:
    """Insert what `copies_to` says, with axes of one before those that a value has."""
    own = fixed_sizes(source) or []
    if len(own) < len(copies):
        source = insert_view(editor, node, source, [1] * (len(copies) - len(own)) + own)
    return source if set(copies) <= {1} else copied(editor, node, source, copies)


def softplus(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute log(1 + exp(x))."""
    return _insert_softplus(editor, node) if len(node.args) == 1 and not node.kwargs else None


def mish(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute x * tanh(log(1 + exp(x))) (Misra 2019)."""
    gate = editor.insert(node, aten.tanh.default, _insert_softplus(editor, node))
    return editor.insert(node, aten.mul.Tensor, operand(node), gate)


def gelu(editor: ProgramEditor, node: Node) -> Node | None:
    """The approximation with tanh, as x * sigmoid(2 u): the delegate computes the exact one for both.

    u = sqrt(2 / pi) * (x + 0.044715 x^3) (Hendrycks and Gimpel 2016).
    """
    if node.kwargs.get("approximate") != "tanh":
        return None
    source, factor = operand(node), 2 * math.sqrt(2 / math.pi)
    square = editor.insert(node, aten.mul.Tensor, source, source)
    scaled = editor.insert(node, aten.mul.Tensor, square, 0.044715 * factor)
    slope = editor.insert(node, aten.add.Tensor, scaled, factor)
    gate = editor.insert(node, aten.sigmoid.default, editor.insert(node, aten.mul.Tensor, source, slope))
    return editor.insert(node, aten.mul.Tensor, source, gate)


def elu(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute max(x, 0) + alpha * (exp(min(x, 0)) - 1) (Clevert et al. 2015)."""
    alpha = node.args[1] if len(node.args) > 1 else 1
    if len(node.args) > 2 or node.kwargs:
        return None
    source = operand(node)
    positive = editor.insert(node, aten.relu.default, source)
    negative = editor.insert(node, aten.sub.Tensor, source, positive)
    below = editor.insert(node, aten.sub.Tensor, editor.insert(node, aten.exp.default, negative), 1.0)
    if alpha != 1:
        below = editor.insert(node, aten.mul.Tensor, below, float(cast("float", alpha)))
    return editor.insert(node, aten.add.Tensor, positive, below)


def _insert_softplus(editor: ProgramEditor, node: Node) -> Node:
    """Insert max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    source = operand(node)
    magnitude = editor.insert(node, aten.abs.default, source)
    tail = editor.insert(node, aten.exp.default, editor.insert(node, aten.neg.default, magnitude))
    logarithm = editor.insert(node, aten.log.default, editor.insert(node, aten.add.Tensor, tail, 1.0))
    return editor.insert(node, aten.add.Tensor, editor.insert(node, aten.relu.default, source), logarithm)


def average_pool(editor: ProgramEditor, node: Node) -> Node | None:
    """Pooling that counts its padding is a depthwise convolution; cut windows are scaled up after it."""
    source = operand(node)
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    given = [*node.args[1:], *[None] * 6]
    kernel = per_axis(given[0], 2)
    stride = per_axis(given[1], 2) if given[1] else kernel
    padding = per_axis(given[2] or 0, 2)
    counts_padding = given[4] is not False
    is_plain = not given[3] and (not counts_padding or not any(padding))
    if is_plain or given[5] is not None or node.kwargs or sizes is None or result is None or len(sizes) != 4:
        return None
    # As far as the last window reaches, which in ceil mode may be beyond the padding.
    reach = [(result[2 + axis] - 1) * stride[axis] + kernel[axis] for axis in (0, 1)]
    beyond = [max(reach[axis] - sizes[2 + axis] - 2 * padding[axis], 0) for axis in (0, 1)]
    if any(beyond):
        pads = [padding[1], padding[1] + beyond[1], padding[0], padding[0] + beyond[0]]
        source = editor.insert(node, aten.constant_pad_nd.default, source, pads, 0.0)
    channels, area = sizes[1], math.prod(kernel)
    weight = editor.add_constant(f"{node.name}_weight", torch.full((channels, 1, *kernel), 1 / area))
    margins = [0, 0] if any(beyond) else padding
    value = editor.insert(node, aten.conv2d.default, source, weight, None, stride, margins, [1, 1], channels)
    inside = torch.ones(1, 1, *sizes[2:])
    counted = _counted(inside, kernel, stride, padding, beyond, counts_padding=counts_padding)
    if bool((counted == area).all()):
        return value
    factors = editor.add_constant(f"{node.name}_factors", area / counted)
    return editor.insert(node, aten.mul.Tensor, value, factors)


def _counted(
    inside: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    beyond: list[int],
    *,
    counts_padding: bool,
) -> torch.Tensor:
    """Return how many values each window's mean is over, (1, 1, H', W')."""
    margin = float(counts_padding)
    padded = torch.nn.functional.pad(inside, [padding[1], padding[1], padding[0], padding[0]], value=margin)
    padded = torch.nn.functional.pad(padded, [0, beyond[1], 0, beyond[0]])
    return torch.nn.functional.conv2d(padded, torch.ones(1, 1, *kernel), stride=stride).round()
