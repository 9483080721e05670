"""Writes files, of text above all, so that nobody ever sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

from edgecompile.errors import OutputNotWritableError


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8", "replace"))  # a name may hold half a surrogate pair


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file aside, and rename it; a symbolic link goes on leading to it.

    Raises:
        OutputNotWritableError: The file cannot be written.
    """
    try:
        final = path.resolve()
        if final.exists() and not final.is_file():  # /dev/stdout, say, is not to be replaced
            final.write_bytes(data)
            return
        aside = final.with_name(f".{final.name}.{os.getpid()}.partial")
        try:
            aside.write_bytes(data)
            aside.replace(final)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritableError(
            f"the file cannot be written: {error.strerror or error}", where=str(path)
        ) from error
