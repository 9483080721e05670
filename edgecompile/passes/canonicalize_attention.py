"""Give scaled dot-product attention its four axes, and take from it a mask that masks nothing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten

_OTHER_AXES = Reason(
    "it has two axes, more than one dynamic size, or five axes and a mask of as many axes",
    change="give it four axes, with the heads in the second, and fix all sizes but the batch",
)


class CanonicalizeAttention:
    """Rewrite attention of other than four axes, batch and heads first: ONNX has it with these only.

    Before: `scaled_dot_product_attention(q (N, L, E), k (N, S, E), v (N, S, E)) -> (N, L, E)`
    After:  `scaled_dot_product_attention(q.view(N, 1, L, E), ...) -> view (N, L, E)`

    Before: `scaled_dot_product_attention(q (N, A, H, L, E), k, v)`
    After:  `scaled_dot_product_attention(q.view(N * A, H, L, E), ...) -> view (N, A, H, L, E)`

    Before: `scaled_dot_product_attention(q, k, v, attn_mask=<True everywhere>)`
    After:  `scaled_dot_product_attention(q, k, v)`

    Declines when there are two axes, when more than one size is dynamic, and when five axes have a mask of
    more than two, or leading axes that differ.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with attention over four axes."""
        return rewrite_calls(program, {aten.scaled_dot_product_attention.default: _canonical})


def _canonical(editor: ProgramEditor, node: Node) -> Node | str | None:
    plain = _without_mask(editor, node)
    result = _with_four_axes(editor, plain or node)
    if plain is not None and isinstance(result, Node):
        editor.graph.erase_node(plain)
    return result if isinstance(result, Node) or plain is None else plain


def _mask(node: Node) -> Any:
    return node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")


def _without_mask(editor: ProgramEditor, node: Node) -> Node | None:
    """Return attention without its mask if that keeps all, or adds 0."""
    mask = editor.constant(_mask(node))
    if mask is None or not ((mask == 0).all() if mask.is_floating_point() else mask.all()):
        return None
    keywords = {key: value for key, value in node.kwargs.items() if key != "attn_mask"}
    arguments = [*node.args[:3], *((None, *node.args[4:]) if len(node.args) > 3 else ())]
    target = aten.scaled_dot_product_attention.default
    return editor.insert(node, target, *arguments, keywords=keywords)


def _with_four_axes(editor: ProgramEditor, node: Node) -> Node | str | None:
    if len(shape_of(node)) == 4:
        return None
    sources = [operand(node, index) for index in range(3)]
    sizes = [static_sizes(item) for item in (*sources, node)]
    mask = _mask(node)
    masked = static_sizes(mask) if isinstance(mask, Node) else []
    fixed = [item for item in sizes if item is not None]
    if len(fixed) < len(sizes) or masked is None:
        return _OTHER_AXES
    ranks = {len(item) for item in fixed}
    if ranks == {3} and len(masked) <= 3:
        shapes = [[size[0], 1, *size[1:]] for size in fixed]
    elif min(ranks) > 4 and len(masked) <= 2 and len({tuple(item[:-2]) for item in fixed}) == 1:
        shapes = [[-1 if -1 in size[:-3] else math.prod(size[:-3]), *size[-3:]] for size in fixed]
    else:
        return _OTHER_AXES
    views = [insert_view(editor, node, source, shape) for source, shape in zip(sources, shapes, strict=False)]
    rest, keywords = list(node.args[3:]), dict(node.kwargs)
    if len(masked) == 3:
        headed = insert_view(editor, node, mask, [masked[0], 1, *masked[1:]])
        if rest:
            rest[0] = headed
        else:
            keywords["attn_mask"] = headed
    result = editor.insert(node, aten.scaled_dot_product_attention.default, *views, *rest, keywords=keywords)
    return insert_view(editor, node, result, fixed[3])
