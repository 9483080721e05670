"""Artifacts and bundles: what ships."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompile.program import Declined


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What an emitter returns: one artifact, still in memory.

    Attributes:
        operators: Operators that the artifact executes, by name.
        delegates: Calls into each delegate, by the delegate's name; empty where the engine has none.
        declined: What runs slower than it could (outside the delegate, in float), and why.
    """

    format: str
    engine: str
    engine_version: str
    data: bytes
    operators: dict[str, int]
    delegates: dict[str, int]
    declined: tuple[Declined, ...]
