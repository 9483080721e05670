"""Give scaled dot-product attention its four axes."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten


class CanonicalizeAttention:
    """Rewrite attention without an axis for the heads: ONNX has it with four axes only.

    Before: `scaled_dot_product_attention(q (N, L, E), k (N, S, E), v (N, S, E)) -> (N, L, E)`
    After:  `scaled_dot_product_attention(q.view(N, 1, L, E), ...) -> view (N, L, E)`

    Declines when there are other than three or four axes, or more than one dynamic size.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with attention over four axes."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(aten.scaled_dot_product_attention.default):
            if len(shape_of(node)) == 4:
                continue
            if not _add_axis(editor, node):
                reason = Reason(
                    "it has other than three or four axes, or more than one dynamic size",
                    change="give it four axes, with the heads in the second, and fix all sizes but the batch",
                )
                declined.append(decline(node, reason, what=operator_name(node)))
        return outcome(editor, declined)


def _add_axis(editor: ProgramEditor, node: Node) -> bool:
    sources = [operand(node, index) for index in range(3)]
    sizes = [static_sizes(item) for item in (*sources, node)]
    mask: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    masked = static_sizes(mask) if isinstance(mask, Node) else None
    is_three = all(item is not None and len(item) == 3 for item in sizes)
    if not is_three or (isinstance(mask, Node) and (masked is None or len(masked) > 3)):
        return False
    views = [
        insert_view(editor, node, source, [size[0], 1, *size[1:]])
        for source, size in zip(sources, sizes, strict=False)
        if size is not None
    ]
    rest, keywords = list(node.args[3:]), dict(node.kwargs)
    if masked is not None and len(masked) == 3:
        headed = insert_view(editor, node, mask, [masked[0], 1, *masked[1:]])
        if rest:
            rest[0] = headed
        else:
            keywords["attn_mask"] = headed
    result = editor.insert(node, aten.scaled_dot_product_attention.default, *views, *rest, keywords=keywords)
    editor.replace(node, insert_view(editor, node, result, sizes[3] or []))
    return True
