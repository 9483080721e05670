"""What the places on this machine share: their folder is a temporary one, and pushing is linking."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecompile.connection import Connection
from edgecompile.errors import RunnerFailedError


class LocalFolder(Connection):
    """The folder of a connection to this machine itself."""

    self_contained = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edgecompile-"))

    def push(self, files: Mapping[str, Path], *, keep: bool = False) -> None:
        """Link files into the folder, by their names there."""
        for name, path in files.items():
            link = self.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(path.absolute())

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copy files of the folder.

        Raises:
            RunnerFailedError: There is no such file.
        """
        for name in names:
            try:
                shutil.copyfile(self.folder / name, folder / name)
            except FileNotFoundError as error:
                raise RunnerFailedError(f"the runner did not write {name!r}") from error

    def close(self) -> None:
        """Remove the folder; what was linked stays."""
        shutil.rmtree(self.folder, ignore_errors=True)
