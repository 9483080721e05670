"""Express batch normalization that no layer can take as a depthwise 1x1 convolution."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.passes.fold_batchnorm import is_in_inference, scale_and_shift
from edgecompile.program import Reason

aten = torch.ops.aten


class ConvolveBatchnorm:
    """Rewrite `batch_norm` in inference mode as a convolution, which has an integer kernel in every engine.

    Before: `x (N, C, H, W) -> add -> batch_norm(C) -> relu`
    After:  `x -> add -> conv2d(weight (C, 1, 1, 1), bias (C), groups C) -> relu`

    A convolution quantizes with a scale for each channel, and takes the activation after it into its kernel.
    Tensors of other than four axes get them by a view, (N, C, L, 1).

    Declines when a statistic is not a constant, when the normalization uses batch statistics, or when more
    than one size is dynamic and there are not four axes.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without batch normalization."""
        return rewrite_calls(program, {aten.batch_norm.default: _convolution})


def _convolution(editor: ProgramEditor, node: Node) -> Node | str:
    reason = is_in_inference(editor, node)
    if reason is not None:
        return reason
    source, sizes, rank = operand(node), static_sizes(node), len(shape_of(node))
    if rank != 4 and (sizes is None or rank not in (2, 3)):
        return Reason(
            "it has other than four axes, and more than one dynamic size",
            change="fix all sizes but the batch",
        )
    if node.meta["val"].dtype != torch.float32:
        return Reason("it does not compute in float32", change="compute in float32")
    scale, shift = scale_and_shift(editor, node)
    weight = editor.add_constant(f"{node.name}_weight", scale.float().reshape(-1, 1, 1, 1))
    bias = editor.add_constant(f"{node.name}_bias", shift.float())
    if rank != 4:
        assert sizes is not None
        source = insert_view(editor, node, source, [*sizes, *[1] * (4 - rank)])
    arguments = (weight, bias, [1, 1], [0, 0], [1, 1], scale.numel())
    result = editor.insert(node, aten.conv2d.default, source, *arguments)
    if rank != 4:
        assert sizes is not None
        result = insert_view(editor, node, result, sizes)
    return result
