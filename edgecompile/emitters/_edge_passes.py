"""Leaves out the passes of ExecuTorch's translation into the edge dialect that find nothing to do.

Where a program cannot be translated node by node, ExecuTorch traces it anew for each of its passes, of which
most look for operators that a network has seldom. As with the delegate's passes, there is no choice of them,
so they are replaced for the time of a translation, and only in the versions that this was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import GraphModule, Node

from edgecompile.emitters._known_versions import is_known

aten = torch.ops.aten


@contextmanager
def only_useful_edge_passes() -> Iterator[None]:
    """Let `to_edge` run only those of its tracing passes that find something to do."""
    from executorch.exir.program import _program

    if not is_known("executorch"):
        yield
        return
    stock_passes: Any = _program._get_aten_to_edge_passes
    stock_format: Any = _program.MemoryFormatOpsPass

    def useful_passes(config: Any) -> tuple[list[Any], list[Any]]:
        before, after = stock_passes(config)
        return [_where_useful(graph_pass) for graph_pass in before], after

    patched: Any = _program
    patched._get_aten_to_edge_passes = useful_passes
    patched.MemoryFormatOpsPass = lambda: _where_useful(stock_format())
    try:
        yield
    finally:
        _program._get_aten_to_edge_passes = stock_passes
        _program.MemoryFormatOpsPass = stock_format


def _where_useful(graph_pass: Any) -> Callable[[GraphModule], Any]:
    from executorch.exir.pass_base import PassResult

    name = getattr(graph_pass, "__name__", type(graph_pass).__name__)
    can_act_on = _CAN_ACT_ON.get(name)

    def run(graph_module: GraphModule) -> Any:
        nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
        has_branches = any(isinstance(node.target, HigherOrderOperator) for node in nodes)
        if can_act_on is None or has_branches or any(can_act_on(node) for node in nodes):
            return graph_pass(graph_module)
        return PassResult(graph_module, False)

    return run


def _is_view(node: Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target.is_view


def _takes_a_number_for_a_tensor(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    parameters = node.target._schema.arguments
    given = [*zip(node.args, parameters, strict=False)]
    given += [(node.kwargs[each.name], each) for each in parameters if each.name in node.kwargs]
    return any(
        isinstance(value, int | float) and isinstance(parameter.type, torch.TensorType)
        for value, parameter in given
    )


def _takes_a_symbol(node: Node) -> bool:
    values = [other.meta.get("val") for other in node.all_input_nodes]
    is_operator = isinstance(node.target, OpOverload)
    return is_operator and not all(isinstance(value, torch.Tensor) for value in values)


def _promotes_types(node: Node) -> bool:
    values = [other.meta.get("val") for other in node.all_input_nodes]
    types = {value.dtype if isinstance(value, torch.Tensor) else None for value in values}
    return node.target in _PROMOTING and types != {torch.float32}


def _takes_a_memory_format(node: Node) -> bool:
    return str(getattr(node.target, "__name__", "")) in _WITH_MEMORY_FORMAT


_PROMOTING = (
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.sub.Tensor,
    aten.div.Tensor,
    aten.div.Tensor_mode,
    aten.minimum.default,
)
_WITH_MEMORY_FORMAT = ("aten._to_copy.default", "aten.empty.memory_format", "aten.clone.default")

# The nodes that each pass can act on; a pass that is not listed always runs.
_CAN_ACT_ON: dict[str, Callable[[Node], bool]] = {
    "NormalizeTransposePass": lambda node: node.target is aten.t.default,
    "ReplaceBrokenOpsWithFunctionalOpsPass": _is_view,
    "ScalarToTensorPass": _takes_a_number_for_a_tensor,
    "SymToTensorPass": _takes_a_symbol,
    "RemoveMixedTypeOperators": _promotes_types,
    "MemoryFormatOpsPass": _takes_a_memory_format,
}
