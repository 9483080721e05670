"""Replace operators that write (`relu_`, `add_`) or are Python's (`&`) by ATen's, right after the capture."""

from __future__ import annotations

import operator
from typing import cast

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind
from torch.fx import Node

from edgecompile.errors import CaptureFailedError
from edgecompile.graph_edit import ProgramEditor, operator_name, source_line

aten = torch.ops.aten
_WRITTEN_INPUT = (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION)
# Operators that return their input itself, though their schema does not say so: these when inactive, ...
_DROPOUTS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)
# ... and these now and then.
_HIDDEN_VIEWS = (
    aten.broadcast_tensors.default,
    aten.atleast_1d.default,
    aten.atleast_2d.default,
    aten.atleast_3d.default,
    aten.meshgrid.default,
    aten.meshgrid.indexing,
)
# What Python's own operators are captured as, and the names by which engines know them.
_PYTHONS = {
    getattr(getattr(aten, f"__{name}__"), kind): getattr(getattr(aten, f"bitwise_{name}"), kind)
    for name in ("and", "or", "xor")
    for kind in ("Tensor", "Scalar")
}


def remove_in_place_writes(exported: ExportedProgram) -> tuple[ExportedProgram, int]:
    """Return an equal program without in-place operators, and how many there were.

    A write to a tensor that nothing else aliases is renamed here, which keeps the operators as the model
    wrote them. Where views alias the written tensor, `run_decompositions` does the full analysis. Operators
    that are spelled as Python's own (`__and__`) get their other names, which engines know.

    Raises:
        CaptureFailedError: The model writes to its own buffers, or to what may or may not be a view.
    """
    names = dict(exported.graph_signature.inputs_to_buffers)
    editor = ProgramEditor(exported)
    writes = [node for node in editor.calls() if _mutates(node)]
    if writes:
        _look_through_dropouts(editor)
    if all(_is_simple_write(editor, node) for node in writes):
        for node in writes:
            _make_functional(editor, node)
    else:
        _refuse_hidden_views(writes)
        exported = editor.finish().run_decompositions({})
        editor = ProgramEditor(exported)
        _restore_batchnorm(editor)
    for node in editor.calls(*_PYTHONS):
        editor.replace(node, editor.insert(node, _PYTHONS[node.target], *node.args))
    _return_user_outputs_only(exported, editor, names)
    return editor.finish(), len(writes)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and node.target is not aten.detach_.default


def _look_through_dropouts(editor: ProgramEditor) -> None:
    """Remove what returns its input itself, so that a write to the one is seen as a write to the other."""
    for node in editor.calls(*_DROPOUTS, aten.type_as.default):
        source = node.args[0]
        assert isinstance(source, Node)
        same_type = source.meta["val"].dtype == node.meta["val"].dtype
        if same_type if node.target is aten.type_as.default else node.args[2] is False:
            node.replace_all_uses_with(source)
            editor.graph.erase_node(node)


def _refuse_hidden_views(writes: list[Node]) -> None:
    for node in writes:
        near = [*node.all_input_nodes, *(user for source in node.all_input_nodes for user in source.users)]
        sources = [*near, *(source for other in near for source in other.all_input_nodes)]
        if any(other.target in _HIDDEN_VIEWS for other in sources):
            raise CaptureFailedError(
                f"the model writes in place ({operator_name(node)}) to what may be a view of another tensor",
                where=source_line(node),
                hint="compute a new tensor instead: `x = x + 1`, not `x += 1`",
            )


def _functional(node: Node) -> torch._ops.OpOverload | None:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    name = target.overloadpacket.__name__
    if target.namespace != "aten" or not name.endswith("_"):
        return None
    return getattr(getattr(aten, name.removesuffix("_"), None), target._overloadname, None)


def _is_simple_write(editor: ProgramEditor, node: Node) -> bool:
    """Tell whether a write goes to the first argument, which nothing views, and keeps its type."""
    target = node.args[0]
    if not isinstance(target, Node) or _functional(node) is None:
        return False
    if target.op != "call_function" and not editor.is_user_input(target):
        return False
    # `half_.add_(float)` stays half, `half + float` does not.
    types = {source.meta["val"].dtype for source in node.all_input_nodes if _is_tensor(source)}
    if len(types | {node.meta["val"].dtype}) != 1:
        return False
    return not _is_view(target) and not any(_is_view(user) for user in target.users if user is not node)


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _is_view(node: Node) -> bool:
    if node.target is operator.getitem or node.target in _HIDDEN_VIEWS:
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable:
        return False
    return any(value.alias_info is not None for value in schema.returns)


def _make_functional(editor: ProgramEditor, node: Node) -> None:
    written = node.args[0]
    assert isinstance(written, Node)
    # Whoever reads the written tensor later reads the new value.
    order = {other: index for index, other in enumerate(editor.graph.nodes)}
    for user in list(written.users):
        if order[user] > order[node]:
            user.replace_input_with(written, node)
    node.target = _functional(node)  # type: ignore[assignment]
    editor.rewrites += 1


def _restore_batchnorm(editor: ProgramEditor) -> None:
    """Give inference batch normalization back the one form that the passes know."""
    for node in editor.calls(aten._native_batch_norm_legit_no_training.default):
        *tensors, momentum, eps = node.args
        normalized = editor.insert(node, aten.batch_norm.default, *tensors, False, momentum, eps, True)
        for item in list(node.users):
            if item.args[1] == 0:
                editor.replace(item, normalized)
    editor.graph.eliminate_dead_code()


def _return_user_outputs_only(
    exported: ExportedProgram, editor: ProgramEditor, names: dict[str, str]
) -> None:
    """Drop the new values of written inputs: an artifact leaves its inputs as they are."""
    specs = exported.graph_signature.output_specs
    returned = cast("tuple[Node | None, ...]", editor.graph.output_node().args[0])
    for spec in specs:
        if spec.kind not in _WRITTEN_INPUT:
            name = names.get(spec.target or "", spec.target)
            raise CaptureFailedError(
                f"the model writes to its own buffer {name!r} in forward",
                hint="return the new state as an output and take it as an input",
            )
    kept = [
        _own_constant(editor, node)
        for node, spec in zip(returned, specs, strict=True)
        if node is not None and spec.kind == OutputKind.USER_OUTPUT
    ]
    editor.graph.output_node().args = (tuple(kept),)


def _own_constant(editor: ProgramEditor, node: Node) -> Node:
    """Return a constant's copy for the output: what computes with it may change it, or take it elsewhere."""
    value = editor.constant(node)
    return node if value is None else editor.add_constant(f"{node.name}_returned", value.clone())
