"""The engine contract: one file of `engines/` runs one kind of artifact in Python on this host."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from edgecompile import catalogue
from edgecompile.quantize.arithmetic import Arithmetic

if TYPE_CHECKING:
    import torch


class Session(Protocol):
    """An artifact that is loaded and ready to run."""

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs for one set of inputs, both in the artifact's order.

        Raises:
            EngineFailedError: The engine rejects the inputs, or an operator failed.
        """
        ...


class Engine(Protocol):
    """A runtime that executes artifacts.

    Attributes:
        name: The word on the command line and in manifests.
        arithmetic: The integer arithmetic that it documents for additions.
        exact_kinds: Operators whose integer arithmetic is documented whole, so that a layer must equal
            the reference bit for bit.
    """

    name: str
    arithmetic: Arithmetic
    exact_kinds: frozenset[str]

    @staticmethod
    def version() -> str:
        """Return the installed version."""
        ...

    @staticmethod
    def load(data: bytes, *, precise: bool) -> Session:
        """Load an artifact; `precise` asks for exact integer sums where the host's default saturates.

        Raises:
            EngineFailedError: The engine rejects the artifact.
        """
        ...

    @staticmethod
    def precise_form(data: bytes) -> bytes:
        """Return an artifact as a native runner must load it where precise sums are asked for."""
        ...


def load_engine(name: str) -> type[Engine]:
    """Return an engine by name."""
    engine: type[Engine] = catalogue.load("edgecompile.engines", name)
    return engine


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Keep what native code writes to stderr away from the terminal; the list has its lines afterwards."""
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            sink.seek(0)
            lines.extend(sink.read().decode(errors="replace").splitlines())
