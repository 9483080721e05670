"""How the flow tells what it is doing; the command line decides how that looks."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the stages of a long job, one after another."""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage of `total` equal parts, or of unknown length."""

    def advance(self, count: int = 1) -> None:
        """Say that `count` more parts of the stage are done."""

    def finish(self, detail: str = "") -> None:
        """End the stage, with a few words on its result."""

    def note(self, text: str) -> None:
        """Say what the user should know and need not act on."""


class QuietProgress:
    """Says nothing: for tests and for use as a library."""

    def start(self, stage: str, total: int | None = None) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def finish(self, detail: str = "") -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
