"""The state of a long computation in a file, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgecompile.tensor_file import read_tensors, write_tensors

# As the stage cache calls what is half written; its sweep removes those that a killed process left.
_PARTIAL = ".partial"


class Checkpoint:
    """A file with tensors and a few facts, which belongs to one computation.

    Attributes:
        path: Its folder is made when it is first written.
        key: Of all that the computation depends on; what another key left is not taken up.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def load(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the tensors, which lie in the mapped file, and the facts; None where there are none.

        What is damaged, or of another computation, counts as not there.
        """
        try:
            tensors, text = read_tensors(self.path)
            document = json.loads(text)
            return (tensors, dict(document["facts"])) if document["key"] == self.key else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def save(self, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state in place of an earlier one: a process that is killed leaves that one whole.

        Raises:
            OSError: It cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f"{self.path.stem}.", suffix=_PARTIAL, dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write_tensors(file, tensors, json.dumps({"key": self.key, "facts": dict(facts)}))
                file.flush()
                os.fsync(file.fileno())  # a name whose data is lost would look whole
            Path(aside).replace(self.path)
        finally:
            Path(aside).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the file: the computation has ended."""
        self.path.unlink(missing_ok=True)
