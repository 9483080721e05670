"""Replace in-place operators (`relu_`, `add_`) by their functional twins, right after the capture."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor


def remove_in_place_writes(exported: ExportedProgram) -> tuple[ExportedProgram, int]:
    """Return an equal program without in-place operators, and how many there were.

    A write to a tensor that nothing else aliases is renamed here, which keeps the operators as the model
    wrote them. Where views alias the written tensor, `run_decompositions` does the full analysis.
    """
    editor = ProgramEditor(exported)
    writes = [node for node in editor.calls() if _mutates(node)]
    if not writes:
        return editor.finish(), 0
    if not all(_is_simple_write(node) for node in writes):
        return exported.run_decompositions({}), len(writes)
    for node in writes:
        _make_functional(editor, node)
    return editor.finish(), len(writes)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and node.target is not torch.ops.aten.detach_.default


def _functional(node: Node) -> torch._ops.OpOverload | None:
    packet = getattr(torch.ops.aten, node.target.overloadpacket.__name__.removesuffix("_"), None)  # type: ignore[union-attr]
    overload = node.target._overloadname  # type: ignore[union-attr]
    return getattr(packet, overload, None) if packet is not None else None


def _is_simple_write(node: Node) -> bool:
    """Tell whether a write goes to the first argument, which nothing views and no input of the model is."""
    target = node.args[0]
    if not isinstance(target, Node) or target.op != "call_function" or _functional(node) is None:
        return False
    return not _is_view(target) and not any(_is_view(user) for user in target.users if user is not node)


def _is_view(node: Node) -> bool:
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
