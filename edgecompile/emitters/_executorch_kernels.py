"""Operators outside the delegate that ExecuTorch's own kernels do not compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import GraphModule, Node

from edgecompile.emitters._outside_delegate import computing_calls, schema_name
from edgecompile.engines.executorch import Executorch as Engine
from edgecompile.errors import LoweringFailedError
from edgecompile.graph_edit import shape_of, source_line

if TYPE_CHECKING:
    from executorch.exir import ExecutorchProgramManager

_CONVOLUTION = "aten::convolution"


def refuse_missing_kernels(lowered: ExecutorchProgramManager, edge: GraphModule) -> None:
    """Raise an error for a program that no device could run.

    Args:
        lowered: The program.
        edge: What it was made of, with its delegates.

    Raises:
        LoweringFailedError: An operator has no kernel.
    """
    known = Engine.kernels()
    called = {
        f"{operator.name}.{operator.overload}" if operator.overload else operator.name
        for plan in lowered.executorch_program.execution_plan
        for operator in plan.operators
    }
    missing = {name.partition(".")[0] for name in called - known}
    outside = [node for node in computing_calls(edge) if schema_name(node) in missing or _is_of_volumes(node)]
    if missing or outside:
        names = sorted(missing | {schema_name(node) for node in outside})
        raise LoweringFailedError(
            f"ExecuTorch has no kernel for {', '.join(names)}",
            where=", ".join(dict.fromkeys(source_line(node) for node in outside)),
            hint="leave the format out with --format, or replace the operator in the model",
        )


def _is_of_volumes(node: Node) -> bool:
    """Tell whether a node is a convolution along three axes: the kernel takes one or two."""
    return schema_name(node) == _CONVOLUTION and len(shape_of(node)) > 4
