"""What a function read, and whether all of it is still as it was."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

OWN_FOLDER = str(Path(__file__).resolve().parent)


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a function read.

    Attributes:
        files: The SHA-256 of each file's content by its absolute path; None for one that was not there.
        folders: The same of each listing: names, sizes and times.
        presence: Paths that were only asked about, and whether they were there.
        links: Where symbolic links pointed that were followed by hand, as `Path.resolve` does.
        environment: The SHA-256 of each variable's value; None for one that was not set.
        unseen: Why the record cannot be trusted, in a few words; "" where it can.
    """

    files: Mapping[str, str | None]
    folders: Mapping[str, str | None]
    presence: Mapping[str, bool]
    links: Mapping[str, str | None]
    environment: Mapping[str, str | None]
    unseen: str

    def unchanged(self) -> bool:
        """Tell whether all is still as it was."""
        return (
            not self.unseen
            and all(variable_digest(name) == value for name, value in self.environment.items())
            and all(os.path.exists(path) == there for path, there in self.presence.items())  # noqa: PTH110
            and all(link_target(path) == target for path, target in self.links.items())
            and all(listing_digest(path) == value for path, value in self.folders.items())
            and all(content_digest(path) == value for path, value in self.files.items())
        )

    def to_json(self) -> str:
        """Return equal text for equal records."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Reads:
        """Return the record of a text.

        Raises:
            ValueError: It is none.
        """
        document = json.loads(text)
        try:
            found = cls(**document)
        except TypeError as error:
            raise ValueError(f"no record of reads: {error}") from error
        if not isinstance(found.unseen, str) or not all(
            isinstance(part, dict)
            for part in (found.files, found.folders, found.presence, found.links, found.environment)
        ):
            raise ValueError("no record of reads: a part has another type")
        return found


def installed_packages() -> str:
    """Return a digest of the interpreter and of the names and versions of all that is installed."""
    names = [platform.python_version(), platform.machine(), sys.platform]
    for folder in dict.fromkeys(sys.path):
        try:
            entries = os.listdir(folder or ".")  # noqa: PTH208 (names are all that is wanted)
        except OSError:
            continue
        names += sorted(name for name in entries if name.endswith((".dist-info", ".egg-info")))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


@functools.cache
def own_sources() -> str:
    """Return a digest of this package's code."""
    found = hashlib.sha256()
    for path in sorted(Path(OWN_FOLDER).rglob("*.py")):
        found.update(str(path.relative_to(OWN_FOLDER)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def content_digest(name: str) -> str | None:
    """Return the SHA-256 of a file; None where there is none."""
    try:
        with open(name, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()
    except IsADirectoryError:
        return "folder"
    except OSError:
        return None


def listing_digest(name: str) -> str | None:
    """Return the SHA-256 of a folder's entries; None where there is no folder."""
    try:
        with os.scandir(name) as entries:
            rows = sorted(_describe(entry) for entry in entries)
    except OSError:
        return None
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _describe(entry: os.DirEntry[str]) -> str:
    if entry.is_dir():
        return f"{entry.name}/"
    # Files that native code reads are seen where their folder is listed: by size and time.
    found = entry.stat(follow_symlinks=False)
    return f"{entry.name} {found.st_size} {found.st_mtime_ns}"


def variable_digest(name: str) -> str | None:
    """Return the SHA-256 of a variable's value; None where it is not set."""
    value = os.environb.get(os.fsencode(name))  # reading `os.environ` would be recorded
    return None if value is None else hashlib.sha256(value).hexdigest()


def link_target(name: str) -> str | None:
    """Return where a symbolic link points; None where there is none."""
    try:
        return os.readlink(name)  # noqa: PTH115 (of text)
    except OSError:
        return None
