"""Rewrites operators that XNNPACK lacks into those that it has, so that a program stays in one delegate.

Each form computes the same in float up to rounding. Other engines have the operators whole, so this is part
of lowering to `.pte`, not a pass over the program that all formats share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.emitters._xnnpack_arithmetic import (
    average_pool,
    elu,
    float_number,
    gelu,
    hardsigmoid,
    mish,
    power,
    reciprocal,
    softplus,
)
from edgecompile.emitters._xnnpack_attention import attention, matmul, softmax
from edgecompile.emitters._xnnpack_moves import (
    expand,
    flip,
    index,
    nearest,
    pixel_shuffle,
    pixel_unshuffle,
    repeated,
    strided_slice,
)
from edgecompile.emitters._xnnpack_norms import group_norm, layer_norm, rms_norm
from edgecompile.emitters._xnnpack_reductions import (
    largest,
    largest_alone,
    log_softmax,
    mean,
    total,
    variance,
    vector_norm,
)
from edgecompile.emitters._xnnpack_resampling import resampled
from edgecompile.graph_edit import ProgramEditor
from edgecompile.passes.canonicalize_views import CanonicalizeViews
from edgecompile.recurrence import LAYERS, unrolled

aten = torch.ops.aten

# The replacement of a node; None leaves it as it is, or says that its readers have been replaced.
Form = Callable[[ProgramEditor, Node], Node | None]

FORMS: dict[Any, Form] = {
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.scaled_dot_product_attention.default: attention,
    aten.matmul.default: matmul,
    **dict.fromkeys(LAYERS, unrolled),
    aten.softmax.int: softmax,
    aten.log_softmax.int: log_softmax,
    aten.mean.dim: mean,
    aten.sum.dim_IntList: total,
    aten.linalg_vector_norm.default: vector_norm,
    aten.var.dim: variance,
    aten.var.correction: variance,
    aten.amax.default: largest,
    aten.max.dim: largest_alone,
    aten.avg_pool2d.default: average_pool,
    aten.slice.Tensor: strided_slice,
    aten.flip.default: flip,
    aten.index.Tensor: index,
    aten.expand.default: expand,
    aten.expand_as.default: expand,
    aten.upsample_nearest2d.vec: nearest,
    aten._upsample_nearest_exact2d.vec: resampled,
    aten.upsample_bicubic2d.vec: resampled,
    aten._upsample_bilinear2d_aa.vec: resampled,
    aten._upsample_bicubic2d_aa.vec: resampled,
    aten.adaptive_avg_pool2d.default: resampled,
    aten.cat.default: repeated,
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.pixel_unshuffle.default: pixel_unshuffle,
    aten.hardsigmoid.default: hardsigmoid,
    aten.pow.Tensor_Scalar: power,
    aten.reciprocal.default: reciprocal,
    aten.softplus.default: softplus,
    aten.mish.default: mish,
    aten.elu.default: elu,
    aten.gelu.default: gelu,
    aten.add.Tensor: float_number,
    aten.sub.Tensor: float_number,
    aten.mul.Tensor: float_number,
    aten.div.Tensor: float_number,
}


def in_delegate_forms(exported: ExportedProgram) -> ExportedProgram:
    """Return the program with every operator in a form that XNNPACK has, where there is one."""
    if not any(node.target in FORMS for node in exported.graph.nodes):
        return exported
    editor = ProgramEditor(exported)
    for node in editor.calls(*FORMS):
        replacement = FORMS[node.target](editor, node)
        if replacement is not None:
            editor.replace(node, replacement)
        elif not node.users:
            editor.graph.erase_node(node)
    if not editor.rewrites:
        return exported
    editor.allow_any_layout()
    return CanonicalizeViews().run(editor.finish()).program  # what the forms put around them often cancels
