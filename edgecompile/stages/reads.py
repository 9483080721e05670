"""What a user's function read when it last ran: while that is unchanged, the function need not run again."""

from __future__ import annotations

from typing import Any

from edgecompile.cache import digest
from edgecompile.reads import Reads, installed_packages, own_sources
from edgecompile.stage_cache import StageCache

_STAGE = "reads"


def tools() -> str:
    """Return a digest of all code that a result depends on besides the user's."""
    return digest(own_sources(), installed_packages())


def remembered(cache: StageCache, key: str) -> dict[str, Any] | None:
    """Return what was remembered of a function; None where something that it read has changed."""
    entry = cache.find(_STAGE, key)
    if entry is None:
        return None
    try:
        reads = Reads.from_json(entry.summary["reads"])
    except (KeyError, ValueError):
        cache.forget(_STAGE, key)
        return None
    return dict(entry.summary["result"]) if reads.unchanged() else None


def remember(cache: StageCache, key: str, reads: Reads, result: dict[str, Any]) -> None:
    """Remember what a function read, and what became of it."""
    cache.put(_STAGE, key, {"reads": reads.to_json(), "result": result})


def forget(cache: StageCache, key: str) -> None:
    """Let the function run again next time."""
    cache.forget(_STAGE, key)
