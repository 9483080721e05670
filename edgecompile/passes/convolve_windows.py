"""Express sliding windows as what engines have: views, slices and depthwise convolutions."""

from __future__ import annotations

from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten

# Each window is an input of a concatenation.
_MOST_WINDOWS = 16


class ConvolveWindows:
    """Rewrite `unfold` and `im2col`, which hardly an engine has.

    Before: `im2col(x (N, C, H, W), kernel (3, 3), stride (2, 2)) -> (N, 9C, L)`
    After:  `conv2d(x, one-hot weight (9C, 1, 3, 3), stride (2, 2), groups C) -> view (N, 9C, L)`

    Before: `im2col(x (N, C, H, W), kernel (4, 4), stride (4, 4)) -> (N, 16C, L)`
    After:  `pixel_unshuffle(x, 4) -> view (N, 16C, L)`

    Before: `unfold(x (N, C, 12), axis 2, size 4, step 2) -> (N, C, 5, 4)`
    After:  `cat(x[..., 0:4], x[..., 2:6], ...) -> view (N, C, 5, 4)`

    Declines when it does not compute in float32, when more than one size is dynamic, and `unfold` when there
    are more than 16 windows.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without sliding windows."""
        return rewrite_calls(program, {aten.im2col.default: _patches, aten.unfold.default: _windows})


def _patches(editor: ProgramEditor, node: Node) -> Node | str:
    source = operand(node)
    sizes, result = static_sizes(source), static_sizes(node)
    if sizes is None or result is None or len(sizes) != 4:
        return Reason(
            "it has no batch, or more than one dynamic size", change="fix all sizes but those of the batch"
        )
    if node.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    kernel, dilation, padding, stride = (cast("list[int]", item) for item in node.args[1:5])
    rows, columns = kernel
    tiles = stride == kernel and dilation == [1, 1] and padding == [0, 0]
    if tiles and rows == columns and not (sizes[2] % rows or sizes[3] % columns):
        patches = editor.insert(node, aten.pixel_unshuffle.default, source, rows)
        return insert_view(editor, node, patches, result)
    places = rows * columns
    one_hot = torch.eye(places).reshape(places, 1, rows, columns).repeat(sizes[1], 1, 1, 1)
    weight = editor.add_constant(f"{node.name}_places", one_hot)
    patches = editor.insert(
        node, aten.conv2d.default, source, weight, None, stride, padding, dilation, sizes[1]
    )
    return insert_view(editor, node, patches, result)


def _windows(editor: ProgramEditor, node: Node) -> Node | str:
    source = operand(node)
    sizes, result = static_sizes(source), static_sizes(node)
    axis, size, step = (cast("int", item) for item in node.args[1:4])
    if sizes is None or result is None or sizes[axis] < 0:
        return Reason("its size is dynamic", change="fix all sizes but those of the batch")
    axis %= len(sizes)
    count = result[axis]
    if count > _MOST_WINDOWS:
        return Reason(
            f"it has {count} windows, more than {_MOST_WINDOWS}",
            change="take larger steps, or a convolution with a one-hot weight",
        )
    starts = range(0, count * step, step)
    parts = [editor.insert(node, aten.slice.Tensor, source, axis, at, at + size) for at in starts]
    together = editor.insert(node, aten.cat.default, parts, axis) if count > 1 else parts[0]
    apart = insert_view(editor, node, together, [*sizes[:axis], count, size, *sizes[axis + 1 :]])
    order = [at for at in range(len(result)) if at != axis + 1]
    return editor.insert(node, aten.permute.default, apart, [*order, axis + 1])
