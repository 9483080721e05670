"""Remove operators that change nothing in inference: dropout, identity, copies, casts to the same type."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operator_name, same_shape
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.program import Reason

aten = torch.ops.aten

# Operators whose value is their first input's, whatever their other arguments say (in eval mode).
_ALWAYS = (
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
    aten.clone.default,
)
_DROPOUTS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)
# Operators that are no-ops when they change neither shape nor dtype.
_RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.expand.default,
    aten.slice.Tensor,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.type_as.default,
    aten._to_copy.default,
    aten.copy.default,
    aten.repeat.default,
    aten.repeat_interleave.self_int,
    aten.cat.default,
)
# The number that changes nothing, as the second operand, where torch puts it.
_NEUTRAL: dict[Any, int] = {
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
    aten.pow.Tensor_Scalar: 1,
}
_PADS = (aten.constant_pad_nd.default, aten.pad.default)


class RemoveNoops:
    """Remove operators that change nothing in inference.

    Before: `x (N, C) -> dropout(0.5) -> view(N, C) -> linear`
    After:  `x (N, C) -> linear`

    Before: `0 + x`, `x * 1`, `x / 1`
    After:  `x`

    Declines when the operator's input is an input of the model and its value an output: an output must
    not alias an input.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program without its no-ops."""
        editor = ProgramEditor(program)
        declined = []
        moved = False
        for node in editor.calls():
            if node.target is aten._assert_tensor_metadata.default:
                editor.graph.erase_node(node)
                editor.rewrites += 1
                continue
            source = _source(node)
            if source is None or not _is_noop(node, source):
                continue
            if editor.is_user_input(source) and node in editor.outputs():
                declined.append(
                    decline(
                        node,
                        Reason(
                            "its value is an output of the model, which must not alias an input",
                            change="do not return what the app passed in",
                        ),
                        what=operator_name(node),
                    )
                )
                continue
            moved = moved or node.meta["val"].stride() != source.meta["val"].stride()
            editor.replace(node, source)
        editor.graph.eliminate_dead_code()  # sizes that only a view of the same shape asked for
        if moved:
            editor.allow_any_layout()
        return outcome(editor, declined)


def _source(node: Node) -> Node | None:
    """Return what a call gives where it is a no-op: `copy` what it is to write, as an assignment does."""
    place = 1 if node.target is aten.copy.default else 0
    source = node.args[place] if len(node.args) > place else None
    if node.target is aten.cat.default and isinstance(source, list | tuple) and len(source) == 1:
        source = source[0]
    return source if isinstance(source, Node) else None


def _is_noop(node: Node, source: Node) -> bool:
    if node.target in _ALWAYS:
        return True
    if node.target in _DROPOUTS:
        return node.args[2] is False
    if node.target in _NEUTRAL:
        return _has_neutral(node) and source.meta["val"].dtype == node.meta["val"].dtype
    if node.target not in (*_RESHAPES, *_PADS):
        return False
    if node.target in _PADS:
        pads = node.args[1]
        return isinstance(pads, list | tuple) and all(pad == 0 for pad in pads)
    return source.meta["val"].dtype == node.meta["val"].dtype and same_shape(source, node)


def _has_neutral(node: Node) -> bool:
    number = node.args[1] if len(node.args) > 1 else None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return is_number and bool(number == _NEUTRAL[node.target])
