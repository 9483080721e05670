"""Writes files, of text above all, so that nobody ever sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

from edgecompile.errors import OutputNotWritableError


def write_text(path: Path, text: str) -> None:
    """Write a file aside, in UTF-8, and rename it.

    Raises:
        OutputNotWritableError: The file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file aside and rename it.

    Raises:
        OutputNotWritableError: The file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            aside.write_bytes(data)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritableError(
            f"the file cannot be written: {error.strerror or error}", where=str(path)
        ) from error
