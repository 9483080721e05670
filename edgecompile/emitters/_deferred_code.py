"""Lets torch.fx write the Python code of a graph only when that code is called.

Whenever a graph is changed or copied, torch.fx writes and compiles its code anew. A lowering does so fifty
times and more, and calls almost none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen

from edgecompile.emitters._known_versions import is_known


@contextmanager
def deferred_code() -> Iterator[None]:
    """Defer the code of the graph modules that change meanwhile; they stay usable afterwards."""
    if not is_known("executorch", "torch"):
        yield
        return
    stock: Any = GraphModule.recompile

    def recompile(self: Any) -> None:
        if isinstance(self._graph._codegen, _PyTreeCodeGen):
            self._in_spec = self._graph._codegen.pytree_info.in_spec
            self._out_spec = self._graph._codegen.pytree_info.out_spec
        self._code = "# written when it is called"
        type(self).forward = write_and_call  # torch.fx makes a class for each graph module

    def write_and_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        stock(self)
        return self.forward(*args, **kwargs)

    setattr(GraphModule, "recompile", recompile)  # noqa: B010
    try:
        yield
    finally:
        setattr(GraphModule, "recompile", stock)  # noqa: B010
