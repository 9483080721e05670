"""This machine: runs the runner that was built for it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from edgecompile.connections._local_folder import LocalFolder
from edgecompile.engine_libraries import Platform
from edgecompile.process import Completed, run_process


class Host(LocalFolder):
    """The connection `host`."""

    platform: Platform = "host"
    description = "host"

    def run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        """Run a pushed program in the folder."""
        program, *arguments = argv
        return run_process(
            [str(self.folder / program), *arguments],
            timeout_seconds=timeout_seconds,
            folder=self.folder,
            environment={**os.environ, "LD_LIBRARY_PATH": str(self.folder)},
        )
