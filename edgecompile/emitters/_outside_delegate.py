"""Which operators stay outside the XNNPACK delegate, and why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from edgecompile.decline import decline
from edgecompile.origins import origin_of
from edgecompile.program import Declined, Reason

_PARTITIONER_LOGGERS = (
    "executorch.backends.xnnpack.partition.config.xnnpack_config",
    "executorch.backends.xnnpack.partition.config.gemm_configs",
    "executorch.backends.xnnpack.partition.config.generic_node_configs",
    "executorch.backends.xnnpack.partition.config.quant_affine_configs",
)


_OUTSIDE = "runs outside the delegate: "
_CHANGE = (
    "use operators that XNNPACK takes (docs/inspect.md lists them), or move it to the model's start or end, "
    "where it splits no delegate call"
)


@contextmanager
def partitioner_reasons() -> Iterator[dict[str, str]]:
    """Collect the partitioner's reasons, by node name; it gives them to its debug log only."""
    reasons: dict[str, str] = {}

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            node, reason = getattr(record.msg, "node", None), getattr(record.msg, "reason", "")
            if isinstance(node, Node):
                reasons.setdefault(node.name, reason)

    handler = Collect()
    loggers = [logging.getLogger(name) for name in _PARTITIONER_LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield reasons
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def is_delegate_call(node: Node) -> bool:
    """Tell whether a node calls a delegate."""
    return "executorch_call_delegate" in str(node.target)


def computing_calls(graph_module: GraphModule) -> Iterator[Node]:
    """Yield the calls outside every delegate that are more than bookkeeping."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function" and "getitem" not in str(node.target) and not is_delegate_call(node):
            yield node


def schema_name(node: Node) -> str:
    """Return what the engine calls an operator, `aten::mean`."""
    schema: Any = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else str(node.target)


def outside_rows(
    edge: GraphModule, exported: ExportedProgram, reasons: dict[str, str], *, delegate: bool
) -> Iterator[Declined]:
    """Yield a row for each operator outside the delegate.

    Args:
        edge: The lowered program.
        exported: What it was lowered from.
        reasons: The partitioner's, by node name.
        delegate: Whether there is one.
    """
    names = {_history(node): node.name for node in exported.graph.nodes}
    rules = _operators_with_rules()
    for node in computing_calls(edge):
        if not delegate:
            reason = Reason(_OUTSIDE + "the target has none", change='set delegate = "xnnpack" in the target')
        else:
            said = reasons.get(node.name) or (
                "XNNPACK's rule for it does not take it here"
                if str(getattr(node.target, "__name__", "")).removeprefix("aten.") in rules
                else "XNNPACK's partitioner has no rule for it"
            )
            reason = Reason(_OUTSIDE + said, change=_CHANGE)
        what = f"{schema_name(node)} ({names.get(_history(node), node.name)})"
        kernel = schema_name(node).rpartition("::")[2]
        yield decline(node, reason, what=what, timed_as=kernel)


def _history(node: Node) -> tuple[str, int]:
    """Return what tells a node from all others, and what it is lowered to as well."""
    origin = origin_of(node)
    return origin.name, origin.graph_id


def _operators_with_rules() -> frozenset[str]:
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    return frozenset(str(rule.target_name) for rule in ALL_PARTITIONER_CONFIGS)
