"""The emitter contract: one file of `emitters/` writes one artifact format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgecompile import catalogue

if TYPE_CHECKING:
    from edgecompile.artifact import Emitted
    from edgecompile.program import QuantizedProgram
    from edgecompile.target import EmitSettings


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


def load_emitter(name: str) -> type[Emitter]:
    """Return an emitter by name."""
    emitter: type[Emitter] = catalogue.load("edgecompile.emitters", name)
    return emitter
