"""Express operators that say in one word what others say, by those: `movedim` is a permute."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils import _pytree

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor, operand, operator_name, shape_of
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.spelled_out import BATCHED, FORMULAS, MOVES, PRODUCTS, UNUSUAL, Formula, as_batch
from edgecompile.user_code import first_line

aten = torch.ops.aten
_FORMULAS = FORMULAS | PRODUCTS | MOVES
_WHOLE = {aten.mm.default: aten.matmul.default}


class SpellOut:
    """Write out operators that later passes, the quantizer and engines know by the names of their parts.

    Before: `x (N, C, H, W) -> movedim(1, -1) -> (N, H, W, C)`
    After:  `x -> permute(0, 2, 3, 1)`

    Before: `rsub(x, 1)`, which is `1 - x`
    After:  `add(mul(x, -1), 1)`

    Before: `softshrink(x, 0.5)`
    After:  `sub(x, clamp(x, -0.5, 0.5))`

    Before: `conv2d(x (C, H, W))`
    After:  `squeeze(conv2d(unsqueeze(x (C, H, W), 0)), 0)`

    Declines when an operator has no such form for its arguments, and does not compute in float32.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program written out."""
        editor = ProgramEditor(program)
        declined = []
        constants = _constants(editor)
        for node in editor.calls(*_FORMULAS, *UNUSUAL, *BATCHED):
            if node in constants or not _computes_with_floats(node):
                continue  # what is constant is computed here, in any words
            if node.target in PRODUCTS and not constants.isdisjoint(node.all_input_nodes):
                continue
            formula = _formula(node)
            if formula is None:
                continue
            try:
                _write_out(editor, node, formula)
            except (NotImplementedError, RuntimeError) as error:
                declined.append(
                    decline(node, f"it has no other form: {first_line(error)}", what=operator_name(node))
                )
        return outcome(editor, declined)


def _formula(node: Node) -> Formula | None:
    if node.target in UNUSUAL:
        is_unusual, formula = UNUSUAL[node.target]
        return formula if is_unusual(node) else None
    if node.target in BATCHED:
        return as_batch(node.target) if len(shape_of(operand(node))) < BATCHED[node.target] else None
    return _FORMULAS[node.target]


def _computes_with_floats(node: Node) -> bool:
    values = _pytree.tree_leaves(node.meta["val"])
    return node.target in MOVES or all(value.dtype == torch.float32 for value in values)


def _constants(editor: ProgramEditor) -> set[Node]:
    """Return the constants, and what is computed from these alone."""
    found: set[Node] = set()
    for node in editor.graph.nodes:
        if editor.constant(node) is not None or (
            node.op == "call_function" and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return found


def _write_out(editor: ProgramEditor, node: Node, formula: Formula) -> None:
    sources = node.all_input_nodes

    def of_tensors(*tensors: Any) -> Any:
        given = dict(zip(sources, tensors, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), given.__getitem__)
        return formula(*args, **kwargs)

    # PyTorch itself takes operators apart below where it keeps the likes of `linear` whole.
    is_whole = not isinstance(node.target, OpOverload) or formula != node.target.decompose
    traced: GraphModule = make_fx(of_tensors, pre_dispatch=is_whole)(
        *(source.meta["val"] for source in sources)
    )
    nodes: dict[Node, Any] = dict(zip(traced.graph.find_nodes(op="placeholder"), sources, strict=True))
    for part in traced.graph.find_nodes(op="get_attr"):
        raise NotImplementedError(f"{part.target} is made anew in every inference")
    for part in traced.graph.nodes:
        if part.op == "call_function":
            args, kwargs = map_arg((part.args, part.kwargs), nodes.__getitem__)
            nodes[part] = editor.insert(node, _WHOLE.get(part.target, part.target), *args, keywords=kwargs)
    results: Any = traced.graph.output_node().args[0]
    if isinstance(results, Node):
        editor.replace(node, nodes[results])
        return
    for user in list(node.users):  # a tuple's items are read one by one
        editor.replace(user, nodes[results[user.args[1]]])
    editor.graph.erase_node(node)
