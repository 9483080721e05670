"""Holds a bundle's folder to its manifest: every file as it was built, and nothing beside them."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from edgecompile.artifact import MANIFEST, Bundle
from edgecompile.errors import AlteredFileError, UnlistedFileError
from edgecompile.signing.regular_file import open_regular

SIGNATURE = "signature.json"


def check_listed_files(bundle: Bundle) -> None:
    """Check every file of the folder, however large, in constant memory.

    Raises:
        UnlistedFileError: The folder holds what the manifest does not list.
        AlteredFileError: A file is missing, altered, or no regular file.
    """
    listed = bundle.manifest.files
    unlisted = sorted(_entries(bundle.path) - listed.keys() - {MANIFEST, SIGNATURE})
    if unlisted:
        raise UnlistedFileError(
            "the bundle holds what its manifest does not list",
            where=str(bundle.path),
            found="\n".join(map(repr, unlisted)),
            hint="remove it, or copy the bundle again",
        )
    for name, expected in listed.items():
        found = _sha256(bundle.path / name, name)
        if found != expected:
            raise AlteredFileError(
                f"the bundle's file {name!r} was altered after the build",
                where=str(bundle.path / name),
                expected=f"SHA-256 {expected}",
                found=f"SHA-256 {found}",
                hint="copy the bundle again, or build it again",
            )


def _entries(folder: Path) -> set[str]:
    """Return everything below a folder but the folders themselves, by its relative path."""

    def refuse(error: OSError) -> None:
        raise AlteredFileError(  # what cannot be listed could hold anything
            f"a folder of the bundle cannot be read: {error.strerror}", where=str(error.filename)
        )

    found: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=refuse):
        # A link to a folder counts as a file: it leads outside, or to what is there already.
        links = [name for name in folders if stat.S_ISLNK(os.lstat(Path(parent, name)).st_mode)]
        found.update(Path(parent, name).relative_to(folder).as_posix() for name in (*files, *links))
    return found


def _sha256(path: Path, name: str) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AlteredFileError(
            f"the bundle's file {name!r} cannot be read as a plain file: {error.strerror}",
            where=str(path),
            hint="copy the bundle again, or build it again",
        ) from error
