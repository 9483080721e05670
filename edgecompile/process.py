"""Runs a program of somebody else's: with a time limit, and with nothing of it left running."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_KEPT_BYTES = 1 << 20  # of each stream, its end: a runaway program must not fill the memory


@dataclass(frozen=True, kw_only=True)
class Completed:
    """How a program ended.

    Attributes:
        exit_code: Its exit status; meaningless where `signal` or `timed_out` is set.
        stdout: The end of what it printed, at most a mebibyte.
        stderr: The same.
        signal: The name of the signal that killed it ("SIGSEGV"), or None.
        timed_out: Whether it was killed because its time was over.
    """

    exit_code: int
    stdout: str
    stderr: str
    signal: str | None = None
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it ended by itself and with success."""
        return self.exit_code == 0 and self.signal is None and not self.timed_out

    def outcome(self) -> str:
        """Return how it ended, in a few words."""
        if self.timed_out:
            return "killed, its time was over"
        return f"killed by {self.signal}" if self.signal else f"exit code {self.exit_code}"

    def last_lines(self, count: int = 12) -> str:
        """Return the end of stderr, or of stdout where that is empty."""
        lines = [line for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line.strip()]
        return "\n".join(lines[-count:])


def run_process(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end or to the end of its time; then its whole process group is killed.

    Raises:
        OSError: The program cannot be started.
    """
    # Into files, not pipes: a grandchild that keeps a pipe open would make us wait for it.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        timed_out = False
        try:
            code = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        return Completed(
            exit_code=code,
            stdout=_end(stdout),
            stderr=_end(stderr),
            signal=signal.Signals(-code).name if code < 0 else None,
            timed_out=timed_out,
        )


def _end(stream: BinaryIO) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _KEPT_BYTES))
    return stream.read().decode(errors="replace")
