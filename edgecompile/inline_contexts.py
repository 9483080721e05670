"""Puts what a model computes under `torch.no_grad` or a switched-off `torch.autocast` where it is called.

`torch.export` wraps such parts into a call of a graph of its own. Without gradients, and in the types that
the model itself says, the part computes the same outside.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, cast

from torch._higher_order_ops.wrap import wrap_with_autocast, wrap_with_set_grad_enabled
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgecompile.graph_edit import ProgramEditor


def inline_contexts(exported: ExportedProgram) -> ExportedProgram:
    """Return the program with these parts in its own graph; those under an autocast that is on stay."""
    if not any(_is_inert(node) for node in exported.graph.nodes):
        return exported
    editor = ProgramEditor(exported)
    owners = {node: exported.graph_module for node in editor.graph.nodes if _is_inert(node)}
    while owners:
        node, owner = owners.popitem()
        owners |= _inline(editor, owner, node)
    editor.graph.eliminate_dead_code()
    return editor.finish()


def _is_inert(node: Node) -> bool:
    if node.target is wrap_with_set_grad_enabled:
        return True
    if node.target is not wrap_with_autocast:
        return False
    device, _, is_enabled = node.args[:3]
    return not is_enabled or device != "cpu"


def _inline(editor: ProgramEditor, owner: GraphModule, node: Node) -> dict[Node, GraphModule]:
    """Inline one part; return those within it, which are now in the program's graph, and whose they are."""
    position = 1 if node.target is wrap_with_set_grad_enabled else 4
    part = cast("Node", node.args[position])
    body = owner.get_submodule(str(part.target))
    assert isinstance(body, GraphModule)
    inputs = dict(zip(body.graph.find_nodes(op="placeholder"), node.args[position + 1 :], strict=True))
    known = set(editor.graph.nodes)
    with editor.graph.inserting_before(node):
        results: Any = editor.graph.graph_copy(body.graph, cast("dict[Node, Node]", inputs))
    outputs: Sequence[Node] = results if isinstance(results, tuple | list) else (results,)
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(outputs[cast("int", user.args[1])])
        editor.graph.erase_node(user)
    editor.graph.erase_node(node)
    return {inner: body for inner in editor.graph.nodes if inner not in known and _is_inert(inner)}
