"""Folders that belong to a living process: what a killed one left behind is told apart, and removed.

Locks are the system's (flock on the folder itself): they end with the process however that ends, and leave no
file behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def owned_folder(path: Path) -> Iterator[Path]:
    """Make a folder, own it, and remove it at the end if it is still there.

    Raises:
        OSError: It cannot be made.
    """
    path.mkdir()
    try:
        with locked_folder(path):
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Wait until no other process holds a folder, and hold it.

    Raises:
        OSError: It cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_abandoned(path: Path) -> bool:
    """Tell whether no living process owns a folder."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(handle)
