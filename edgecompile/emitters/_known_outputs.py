"""Says what a delegate returns without running what it was made from.

`to_executorch` traces the program twice, and each time runs the whole program inside every delegate on fake
tensors, to learn the shape of outputs that it knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree

from edgecompile.graph_edit import output_nodes


def know_outputs(delegated: ExportedProgram) -> None:
    """Let a delegate's program, when it is called while tracing, give empty tensors like its outputs.

    A program with dynamic sizes is left to run: its outputs depend on its inputs.
    """
    values = [node.meta["val"] for node in output_nodes(delegated.graph)]
    sizes = [size for value in values for size in (*value.shape, *value.stride())]
    if not all(isinstance(size, int) for size in sizes):
        return
    described = [(tuple(value.shape), tuple(value.stride()), value.dtype) for value in values]
    structure = delegated.call_spec.out_spec

    def module(check_guards: bool = True) -> Callable[..., Any]:
        return lambda *_: _pytree.tree_unflatten(
            [torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in described],
            structure,
        )

    delegated.module = module  # type: ignore[assignment, method-assign]
