"""Opens files that come from elsewhere: regular ones only, and no more of them than is wanted."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path, *, follow: bool = False) -> BufferedReader:
    """Open a file for reading; a pipe, a device or a folder is refused before anything waits for it.

    Args:
        path: The file.
        follow: Whether it may be a symbolic link.

    Raises:
        OSError: It cannot be opened, or is not a regular file.
    """
    # Without O_NONBLOCK a pipe that nobody writes to would hold us for ever.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, limit_bytes: int, *, follow: bool = False) -> bytes:
    """Return a file's bytes.

    Args:
        path: The file.
        limit_bytes: More than this is refused, and not read.
        follow: Whether it may be a symbolic link.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger.
    """
    with open_regular(path, follow=follow) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes", str(path))
    return data
