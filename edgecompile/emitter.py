"""The emitter contract: one file of `emitters/` writes one artifact format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgecompile import catalogue

if TYPE_CHECKING:
    from edgecompile.artifact import Emitted
    from edgecompile.program import Declined, QuantizedProgram
    from edgecompile.target import EmitSettings


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What an artifact would have.

    Attributes:
        delegates: Calls into each delegate, by the delegate's name; empty where the engine has none.
        declined: What would run slower than it could, and why.
    """

    delegates: dict[str, int]
    declined: tuple[Declined, ...]


class Emitter(Protocol):
    """Writes one format.

    Attributes:
        format: The word on the command line, `pte`.
        engine: What executes the artifact.
        suffix: The file name's end, with its dot.
    """

    format: str
    engine: str
    suffix: str

    @staticmethod
    def emit(program: QuantizedProgram, settings: EmitSettings) -> Emitted:
        """Lower a program; the same program and versions give the same bytes.

        Raises:
            LoweringFailedError: The format cannot express the program.
        """
        ...

    @staticmethod
    def foresee(program: QuantizedProgram, settings: EmitSettings) -> Foreseen | None:
        """Return what `emit` would say, in a fraction of its time; None where only emitting tells.

        Raises:
            LoweringFailedError: The format cannot express the program.
        """
        ...


def load_emitter(name: str) -> type[Emitter]:
    """Return an emitter by name."""
    emitter: type[Emitter] = catalogue.load("edgecompile.emitters", name)
    return emitter
