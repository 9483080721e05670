"""Lowers programs to artifacts: each distinct one once, whichever targets want it."""

from __future__ import annotations

from collections.abc import Sequence

from edgecompile.artifact import Emitted
from edgecompile.stage_cache import Result, StageCache
from edgecompile.stages.emitted import Lowering, emitted


def lower_all(
    cache: StageCache, lowerings: Sequence[Sequence[Lowering]], *, jobs: int
) -> list[list[Result[Emitted]]]:
    """Return the artifacts of each target's lowerings.

    Raises:
        LoweringFailedError: A format cannot express its program.
    """
    return [[emitted(cache, lowering) for lowering in row] for row in lowerings]
