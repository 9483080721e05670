"""Imports ExecuTorch's exporter without what a build never uses.

Two of its imports take longer than the lowering of a small network: of TorchInductor, a compiler to machine
code, it wants one function, and gets all of Inductor's kernels with it; and it reads a table of operators
with a general YAML parser. While it is imported, light modules stand in for these two, and only in the
versions that this was written for. What is left of them does the same as what they stood in for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from torch._higher_order_ops.executorch_call_delegate import executorch_call_delegate
from torch._ops import HigherOrderOperator
from torch.fx import Graph, Node

from edgecompile.emitters._known_versions import is_known

_INDUCTOR = "torch._inductor.fx_passes.post_grad"
_YAML = "ruamel.yaml"


def import_executorch() -> None:
    """Import `executorch.exir`; nothing is replaced if that, or what is stood in for, is imported already."""
    if "executorch.exir" in sys.modules or not is_known("executorch", "torch"):
        import_module("executorch.exir")
        return
    inductor, yaml = ModuleType(_INDUCTOR), ModuleType(_YAML)
    inductor.__dict__["decompose_auto_functionalized"] = decompose_auto_functionalized
    yaml.__dict__["YAML"] = OperatorTable
    with _standing_in(inductor), _standing_in(yaml):
        import_module("executorch.exir")


@contextmanager
def _standing_in(module: ModuleType) -> Iterator[None]:
    name = module.__name__
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def decompose_auto_functionalized(graph: Graph) -> None:
    """Call Inductor's function of this name, unless the graph is one that it leaves as it is."""
    if any(_is_decomposed(node) for node in graph.nodes):
        import_module(_INDUCTOR).decompose_auto_functionalized(graph)


def _is_decomposed(node: Node) -> bool:
    is_other = isinstance(node.target, HigherOrderOperator) and node.target is not executorch_call_delegate
    return is_other or (node.op == "get_attr" and not node.users)


class OperatorTable:
    """Reads the one YAML file that ExecuTorch reads, which has no more of YAML than this.

        - func: aten::relu
          type_alias:
            T0: [Float, Int]
          type_constraint:
          - self: T0
            __ret_0: T0

    Attributes:
        typ: Unused; YAML readers have it.
    """

    def __init__(self, typ: str = "safe") -> None:
        self.typ = typ

    def load(self, text: str) -> list[dict[str, Any]]:
        """Return the operators."""
        operators: list[dict[str, Any]] = []
        for line in text.splitlines():
            key, _, value = line.lstrip(" -").partition(":")
            value = value.strip()
            if line.startswith("- "):
                operators.append({key: value})
            elif line.startswith("  - "):
                operators[-1]["type_constraint"].append({key: value})
            elif value.startswith("["):
                operators[-1]["type_alias"][key] = value.strip("[]").split(", ")
            elif line.startswith("    "):
                operators[-1]["type_constraint"][-1][key] = value
            elif line.startswith("  "):
                operators[-1][key] = value or {"type_alias": {}, "type_constraint": []}[key]
        return operators
