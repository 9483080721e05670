"""The connection contract: one file of `connections/` reaches one kind of place where runners run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from edgecompile.engine_libraries import Platform
from edgecompile.process import Completed


class Connection(Protocol):
    """A place with a folder of its own, where files are pushed and programs run.

    Attributes:
        platform: What runners must be built for.
        description: The place, as the report names it.
        self_contained: Whether runners must bring the system's libraries with them.
    """

    platform: Platform
    description: str
    self_contained: bool

    def push(self, files: Mapping[str, Path], *, keep: bool = False) -> None:
        """Put files into the folder, by their names there; what is already there is not sent again.

        Args:
            files: Name there -> file here.
            keep: They may stay there for the next connection, which then need not send them.
        """
        ...

    def run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        """Run a pushed program in the folder, with the libraries beside it.

        Args:
            argv: The program's name in the folder, and its arguments.
            timeout_seconds: After this it is killed, with all that it started.
        """
        ...

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copy files from the place's folder into a local one.

        Raises:
            RunnerFailedError: There is no such file.
        """
        ...

    def close(self) -> None:
        """Remove what was written and pushed there, but for what may be kept."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
