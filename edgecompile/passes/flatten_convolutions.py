"""Express convolutions over volumes as convolutions over pictures, where one axis has a kernel of 1."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, per_axis
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import fixed_sizes, insert_view
from edgecompile.program import Reason

aten = torch.ops.aten


class FlattenConvolutions:
    """Rewrite `conv3d` with a kernel of 1 along an axis: the axis becomes part of the batch.

    Before: `conv3d(x (N, C, H, W, D), weight (E, C, 3, 3, 1), padding (1, 1, 0)) -> (N, E, H, W, D)`
    After:  `x -> permute -> view (N * D, C, H, W) -> conv2d(weight (E, C, 3, 3)) -> view -> permute`

    Mobile engines have integer kernels for pictures only, and ExecuTorch none at all for volumes.

    Declines when no axis has a kernel of 1, a stride of 1 and no padding; when its weight is computed; and
    when a size other than the batch is dynamic.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with convolutions over pictures."""
        return rewrite_calls(program, {aten.conv3d.default: _over_pictures})


def _over_pictures(editor: ProgramEditor, node: Node) -> Node | str:
    source, weight = operand(node), editor.constant(node.args[1])
    sizes, result = fixed_sizes(source), fixed_sizes(node)
    if weight is None:
        return Reason("its weight is not a constant", change="make it a parameter or a buffer")
    if sizes is None or result is None or len(sizes) != 5:
        return Reason(
            "it has no batch, or a size other than the batch is dynamic",
            change="fix all sizes but those of the batch",
        )
    defaults: tuple[Any, ...] = (None, [1] * 3, [0] * 3, [1] * 3, 1)
    given: tuple[Any, ...] = (*node.args[2:], *defaults[len(node.args) - 2 :])
    bias, groups = given[0], given[4]
    stride, padding, dilation = (per_axis(item, 3) for item in given[1:4])
    flat = [at for at in range(3) if weight.shape[2 + at] == stride[at] == 1 and padding[at] == 0]
    if not flat:
        return Reason(
            "it convolves along all three axes, and engines have convolutions along two",
            change="replace it by one along two axes and one along the third",
        )
    axis = flat[-1]
    kept = [at for at in range(3) if at != axis]
    first = editor.insert(node, aten.permute.default, source, [0, 2 + axis, 1, *(2 + at for at in kept)])
    pictures = insert_view(editor, node, first, [-1, sizes[1], *(sizes[2 + at] for at in kept)])
    flat_weight = editor.add_constant(f"{node.name}_weight", weight.squeeze(2 + axis))
    settings = [[item[at] for at in kept] for item in (stride, padding, dilation)]
    value = editor.insert(node, aten.conv2d.default, pictures, flat_weight, bias, *settings, groups)
    apart = insert_view(
        editor, node, value, [result[0], result[2 + axis], result[1], *(result[2 + at] for at in kept)]
    )
    places = {0: 0, 2 + axis: 1, 1: 2, **{2 + at: 3 + order for order, at in enumerate(kept)}}
    return editor.insert(node, aten.permute.default, apart, [places[at] for at in range(5)])
