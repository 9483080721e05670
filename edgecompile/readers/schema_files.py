"""Schema texts that the ExecuTorch package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgecompile.errors import ToolMissingError


def schema_text(inside_package: str) -> str:
    """Return a schema's text.

    The package is found without importing it: that would import torch, which takes seconds.

    Raises:
        ToolMissingError: If ExecuTorch is not installed, or a version without that file.
    """
    specification = importlib.util.find_spec("executorch")
    folders = (specification and specification.submodule_search_locations) or ()
    for folder in folders:
        path = Path(folder) / inside_package
        if path.is_file():
            return path.read_text()
    raise ToolMissingError(
        f"the Python package executorch with its {Path(inside_package).name} is not installed",
        hint="pip install edgecompile brings the right version",
    )
