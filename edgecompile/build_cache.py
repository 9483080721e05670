"""The cache that one build uses: the user's, or with `--no-cache` one that ends with the build."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecompile.cache import cache_folder
from edgecompile.cache_upkeep import STAGES, sweep, trim
from edgecompile.owned_folder import is_abandoned, owned_folder
from edgecompile.progress import Progress
from edgecompile.settings import BuildSettings
from edgecompile.stage_cache import StageCache

_TEMPORARY = "edgecompile-build-"


@contextmanager
def open_cache(settings: BuildSettings, progress: Progress) -> Iterator[StageCache]:
    """Give the cache of a build; what killed builds left is removed first, what is too much afterwards."""
    _remove_abandoned()
    if not settings.cache:
        # Workers find the programs there, and targets share what is the same.
        place = Path(tempfile.gettempdir()) / f"{_TEMPORARY}{os.getpid()}"
        with owned_folder(place) as folder:
            yield StageCache(folder, progress)
        return
    sweep()
    yield StageCache(stages_folder(), progress)
    trim()


def stages_folder() -> Path:
    """Return where the results of the user's builds are."""
    return cache_folder() / STAGES


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        if is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
