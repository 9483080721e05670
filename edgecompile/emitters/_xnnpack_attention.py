"""Attention and matrix products as batched products of three axes, the only ones that XNNPACK has."""

from __future__ import annotations

import math
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch.fx import Node

from edgecompile.emitters._xnnpack_arithmetic import copies_to, expanded
from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.passes.canonicalize_views import are_fixed, fixed_sizes, insert_view

aten = torch.ops.aten
_FAR = 1e9  # from any score: beside it exp(score - 1e9) is 0
# By program: what is made of its masks, once for all layers.
_made: WeakKeyDictionary[ProgramEditor, dict[Node, tuple[Node | None, Node]]] = WeakKeyDictionary()


def attention(editor: ProgramEditor, node: Node) -> Node | None:
    """Compute softmax(q * scale k^T + mask) v (Vaswani et al. 2017)."""
    query, key, value = (operand(node, index) for index in range(3))
    given: dict[str, Any] = dict(zip(("attn_mask", "dropout_p", "is_causal"), node.args[3:], strict=False))
    given |= node.kwargs
    mask, scale = given.get("attn_mask"), given.get("scale")
    masks = {mask.meta["val"].dtype} if isinstance(mask, Node) else set()
    is_other = bool(given.get("dropout_p") or given.get("enable_gqa") or masks - {torch.float32, torch.bool})
    if is_other or not are_fixed(query, key, value):
        return None
    operands = _with_leading(editor, node, (key, value), (fixed_sizes(query) or [])[:-2])
    if operands is None:
        return None
    key, value = operands
    if given.get("is_causal"):
        mask = _causal_mask(editor, node, query, key)
    width = shape_of(query)[-1]
    factor = 1 / math.sqrt(int(width)) if scale is None else scale
    rank = len(shape_of(key))
    turned = editor.insert(node, aten.permute.default, key, [*range(rank - 2), rank - 1, rank - 2])
    scores = _product(editor, node, editor.insert(node, aten.mul.Tensor, query, factor), turned)
    kept = None
    if masks == {torch.bool}:
        kept, mask = _kept_and_added(editor, node, cast("Node", mask))
    if mask is not None:
        scores = editor.insert(node, aten.add.Tensor, scores, mask)
    weights = _insert_softmax(editor, node, scores)
    if kept is not None:
        weights = editor.insert(node, aten.mul.Tensor, weights, kept)
    return _product(editor, node, weights, value)


def _kept_and_added(editor: ProgramEditor, node: Node, mask: Node) -> tuple[Node | None, Node]:
    """Return a boolean mask as 1 and 0, to multiply weights with, and as 0 and -1e9, to add to scores.

    What is not kept has weight 0 from the addition alone, but where nothing is: there attention gives 0. A
    constant mask that always keeps something needs no factors.
    """
    known = _made.setdefault(editor, {})
    if mask in known:  # of an earlier layer
        return known[mask]
    value = editor.constant(mask)
    kept: Node | None
    if value is None:
        kept = editor.insert(node, aten.to.dtype, mask, torch.float32)
        shifted = editor.insert(node, aten.sub.Tensor, kept, 1.0)
        added = editor.insert(node, aten.mul.Tensor, shifted, _FAR)
    else:
        keeps_some = bool(value.any(-1).all())
        kept = None if keeps_some else editor.add_constant(f"{node.name}_kept", value.float())
        added = editor.add_constant(f"{node.name}_added", (value.float() - 1) * _FAR)
    known[mask] = kept, added
    return kept, added


def _causal_mask(editor: ProgramEditor, node: Node, query: Node, key: Node) -> Node:
    rows, columns = int(shape_of(query)[-2]), int(shape_of(key)[-2])
    mask = torch.full((rows, columns), -math.inf).triu(1)
    return editor.add_constant(f"{node.name}_causal_mask", mask)


def matmul(editor: ProgramEditor, node: Node) -> Node | None:
    """A product of any axes, with views around a `bmm`: one of a computed matrix, or one that broadcasts."""
    left, right = operand(node), operand(node, 1)
    rows, columns, result = fixed_sizes(left), fixed_sizes(right), fixed_sizes(node)
    if rows is None or columns is None or result is None or node.meta["val"].dtype != torch.float32:
        return None
    if min(len(rows), len(columns)) < 2 or (len(columns) == 2 and editor.constant(right) is not None):
        return None  # a vector, or a linear layer
    if rows[:-2] == columns[:-2] and len(rows) > 2:
        return _product(editor, node, left, right)
    if math.prod(columns[:-2]) == 1:  # all on the left are rows of one matrix
        left = insert_view(editor, node, left, [1, *_merged(rows[:-1]), rows[-1]])
        right = insert_view(editor, node, right, [1, *columns[-2:]])
        return insert_view(editor, node, editor.insert(node, aten.bmm.default, left, right), result)
    operands = _with_leading(editor, node, (left, right), result[:-2])
    return None if operands is None else _product(editor, node, *operands)


def _merged(sizes: list[int]) -> list[int]:
    return [-1 if -1 in sizes else math.prod(sizes)]


def _with_leading(
    editor: ProgramEditor, node: Node, matrices: tuple[Node, Node], leading: list[int]
) -> tuple[Node, Node] | None:
    """Insert copies of two operands for these leading axes; None where one cannot have them."""
    first, second = (copies_to(item, [*leading, *(fixed_sizes(item) or [])[-2:]]) for item in matrices)
    if first is None or second is None:
        return None
    return expanded(editor, node, matrices[0], first), expanded(editor, node, matrices[1], second)


def softmax(editor: ProgramEditor, node: Node) -> Node | None:
    """A softmax over another axis than the last moves that axis to the end, and back.

    With four axes ExecuTorch 1.5.1 takes it for a picture: after a convolution, whose result lies in memory
    with its channels last, the delegate then computes the softmax over those. So it has three at most.
    """
    source, axis = operand(node), cast("int", node.args[1])
    rank = len(shape_of(source))
    axis %= rank
    if (axis == rank - 1 and rank < 4) or fixed_sizes(source) is None:
        return None
    order = [*(other for other in range(rank) if other != axis), axis]
    if axis != rank - 1:
        source = editor.insert(node, aten.permute.default, source, order)
    result = _insert_softmax(editor, node, source)
    if axis == rank - 1:
        return result
    return editor.insert(node, aten.permute.default, result, [order.index(other) for other in range(rank)])


def _insert_softmax(editor: ProgramEditor, node: Node, source: Node) -> Node:
    """Insert a softmax over the last axis."""
    sizes = fixed_sizes(source)
    assert sizes is not None
    if len(sizes) < 4:
        return editor.insert(node, aten.softmax.int, source, -1)
    rows = insert_view(editor, node, source, [sizes[0], math.prod(sizes[1:-1]), sizes[-1]])
    return insert_view(editor, node, editor.insert(node, aten.softmax.int, rows, -1), sizes)


def _product(editor: ProgramEditor, node: Node, left: Node, right: Node) -> Node:
    """Insert `left (..., M, K) @ right (..., K, N)`, whose leading axes are the same."""
    rows, columns = fixed_sizes(left), fixed_sizes(right)
    assert rows is not None
    assert columns is not None
    if len(rows) == 3:
        return editor.insert(node, aten.bmm.default, left, right)
    batch = -1 if rows[0] == -1 else math.prod(rows[:-2])
    flat = [
        insert_view(editor, node, item, [batch, *sizes[-2:]])
        for item, sizes in ((left, rows), (right, columns))
    ]
    product = editor.insert(node, aten.bmm.default, *flat)
    return insert_view(editor, node, product, [*rows[:-1], columns[-1]])
