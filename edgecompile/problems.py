"""Collects configuration errors, so that a user sees all of them at once instead of one a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgecompile.errors import ConfigurationErrors, EdgecompileError


class Problems:
    """The errors found so far; `raise_any` raises one as itself, several as `ConfigurationErrors`."""

    def __init__(self) -> None:
        self.errors: list[EdgecompileError] = []

    def add(self, error: EdgecompileError) -> None:
        """Remember an error; a group is taken apart, and what was said before is not said again."""
        shown = {known.render() for known in self.errors}
        parts = error.errors if isinstance(error, ConfigurationErrors) else (error,)
        self.errors.extend(part for part in parts if part.render() not in shown)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Turn an error that the block raises into a remembered one."""
        try:
            yield
        except EdgecompileError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raise what was collected, if anything was."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            raise ConfigurationErrors(self.errors)
