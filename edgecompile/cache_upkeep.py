"""The cache as a whole: what it holds, and the removal of what was not used for longest."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from edgecompile.cache import cache_folder
from edgecompile.stage_cache import STATE

# What is kept when nothing else is said; a variable of the environment says it otherwise.
LIMIT_VARIABLE, DEFAULT_LIMIT_GB = "EDGECOMPILE_CACHE_LIMIT_GB", 10.0
STAGES = "stages"
# A runner or an engine's libraries may be in use by a process that found them a moment ago.
_IN_USE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing in the cache that can be removed by itself.

    Attributes:
        kind: The folder that it is in: a stage, or `runners`, `engines`, ...
        paths: Its files, or its folder.
        used_at: When it was last used, in seconds since 1970.
        size_bytes: Of all its files.
    """

    kind: str
    paths: tuple[Path, ...]
    used_at: float
    size_bytes: int

    def remove(self) -> None:
        """Remove it; a result's header goes first, so that nothing looks whole that is not."""
        for path in self.paths:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def limit_bytes() -> int:
    """Return how large the cache may be; what is no number is taken for the default."""
    try:
        limit_gb = float(os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT_GB)
    except ValueError:
        limit_gb = DEFAULT_LIMIT_GB
    return int(max(limit_gb, 0.0) * 1e9)


def items() -> Iterator[Item]:
    """Yield all that is in the cache."""
    root = cache_folder()
    for kind in sorted(_folders(root)):
        if kind.name != STAGES:
            yield from (_folder_item(kind.name, folder) for folder in _folders(kind))
    for stage in sorted(_folders(root / STAGES)):
        for header in sorted(stage.glob("*.json")):
            with contextlib.suppress(OSError):
                yield _result_item(stage.name, header)
        for state in sorted(stage.glob(f"*{STATE}")):
            with contextlib.suppress(OSError):
                found = state.stat()
                yield Item(kind=stage.name, paths=(state,), used_at=found.st_mtime, size_bytes=found.st_size)


def trim() -> int:
    """Remove what was not used for longest until the rest fits the limit; return the bytes removed."""
    found = sorted(items(), key=lambda item: item.used_at)
    excess = sum(item.size_bytes for item in found) - limit_bytes()
    removed = 0
    for item in found:
        if removed >= excess:
            break
        if len(item.paths) > 1 or time.time() - item.used_at > _IN_USE_SECONDS:
            item.remove()
            removed += item.size_bytes
    return removed


def clear() -> int:
    """Remove everything; return the bytes removed."""
    removed = 0
    for item in items():
        item.remove()
        removed += item.size_bytes
    sweep()
    return removed


def sweep() -> None:
    """Remove what killed processes left: half-written files, and locks that nobody holds."""
    for folder in _folders(cache_folder() / STAGES):
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
        stale = [name for name in names if name.endswith((".partial", ".lock"))]
        stale += [name for name in names if _is_orphan(name, names)]
        for key in {name.partition(".")[0] for name in stale}:
            _sweep_key(folder, key, [name for name in stale if name.startswith(key)])


def _is_orphan(name: str, names: set[str]) -> bool:
    return name.endswith(".data") and f"{name.removesuffix('.data')}.json" not in names


def _sweep_key(folder: Path, key: str, names: list[str]) -> None:
    lock = FileLock(folder / f"{key}.lock")
    with contextlib.suppress(OSError, Timeout):
        lock.acquire(blocking=False)
        for name in names:
            if name.endswith(".data") and (folder / f"{key}.json").exists():
                continue  # finished meanwhile
            (folder / name).unlink(missing_ok=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []


def _folder_item(kind: str, folder: Path) -> Item:
    sizes = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            sizes.append(path.lstat().st_size)
    return Item(kind=kind, paths=(folder,), used_at=folder.stat().st_mtime, size_bytes=sum(sizes))


def _result_item(stage: str, header: Path) -> Item:
    data = header.with_suffix(".data")
    used = header.stat()
    size = used.st_size + (data.stat().st_size if data.exists() else 0)
    return Item(kind=stage, paths=(header, data), used_at=used.st_mtime, size_bytes=size)
