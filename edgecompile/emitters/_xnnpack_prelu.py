"""PReLU in the form for which ExecuTorch's lowering has a place.

The partitioner delegates every `prelu`, and the pass that then chooses memory layouts (of ExecuTorch
1.5.1) takes its input for a picture: with another number of axes than four, as after a linear layer or a
`conv1d`, the lowering ends with "Attempting to convert non-NHWC compatible node to NHWC".
"""

from __future__ import annotations

import math

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view

aten = torch.ops.aten


def prelu_on_pictures(exported: ExportedProgram) -> ExportedProgram:
    """Return a program in which every `prelu` has four axes, where that can be said with a view.

    Before: prelu(x (N, C), w)
    After:  prelu(x.view(N, C, 1, 1), w).view(N, C)
    """
    if not any(_is_other(node) for node in exported.graph.nodes):
        return exported
    editor = ProgramEditor(exported)
    for node in editor.calls(aten.prelu.default):
        sizes = fixed_sizes(node) if _is_other(node) else None
        if sizes is None:
            continue
        picture = [*sizes[:2], math.prod(sizes[2:]), 1]
        value = insert_view(editor, node, operand(node), picture)
        result = editor.insert(node, aten.prelu.default, value, *node.args[1:])
        editor.replace(node, insert_view(editor, node, result, sizes))
    return editor.finish()


def _is_other(node: Node) -> bool:
    return node.target is aten.prelu.default and len(shape_of(node)) not in (1, 4)
