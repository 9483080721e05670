"""The user's cache folder: what is expensive to make is made once, aside, and renamed when whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from edgecompile.errors import CacheNotWritableError

# Another folder for the cache, as a CI system that keeps it between runs may want.
FOLDER_VARIABLE = "EDGECOMPILE_CACHE"


def cache_folder() -> Path:
    """Return the folder of this user's cache; it may not exist yet."""
    return Path(os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_dir("edgecompile"))


def digest(*parts: str | bytes) -> str:
    """Return the SHA-256 of `parts`, in hexadecimal; other parts never give the same."""
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def key(*parts: str | bytes) -> str:
    """Return a short name for what was made from `parts`."""
    return digest(*parts)[:16]


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache, which `make` fills if it is not there.

    Two processes never make the same folder at once, and one that dies leaves nothing half made.

    Raises:
        CacheNotWritableError: The cache cannot be written, or the disk is full.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        with contextlib.suppress(OSError):
            os.utime(folder)  # what was not used for longest is removed first
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):
            if folder.is_dir():
                return folder
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                aside.chmod(0o755)
                make(aside)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise CacheNotWritableError(
            f"the cache cannot be written: {error.strerror or error}",
            where=str(folder),
            hint="free some space, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return folder
