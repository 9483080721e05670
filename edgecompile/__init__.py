"""An edge and mobile model compiler: a PyTorch model in, validated INT8 artifacts out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecompile.pruning.prune_module import prune

__all__ = ["__version__", "prune"]

# ONNX Runtime's official builds send usage data about models. Nothing leaves the machine from here, and it
# reads this once, when it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name == "prune":
        from edgecompile.pruning.prune_module import prune

        return prune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
