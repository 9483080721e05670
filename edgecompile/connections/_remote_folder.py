"""What the places that are reached through a client's shell share: a folder that keeps files by their hash.

    BASE/kept/<sha256>      files that stay for the next connection
    BASE/run-<token>/       one connection's folder: links by name, and what its programs write
    BASE/run-<token>/in/    what was sent to it, by hash

A file goes to `in/` first and is then renamed, so that `kept/` never holds half of one. Every script ends
by printing a mark with its exit code: old shells over adb give none, and a script without its mark did not
end, which is how a lost connection is noticed.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import shlex
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from platform import machine

from edgecompile.connection import Connection
from edgecompile.engine_libraries import Platform
from edgecompile.errors import (
    DeviceFullError,
    DeviceLostError,
    DeviceUnsupportedError,
    EdgecompileError,
    RunnerFailedError,
)
from edgecompile.process import Completed

SECONDS = 60.0  # for what is quick, on a slow device too
_SEND_SECONDS = 1800.0
_CLOSE_SECONDS = 15.0

# Linux's, whatever this machine runs.
_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


class RemoteFolder(Connection):
    """A connection's folder on a device with a POSIX shell.

    Args:
        base: The folder below which everything is, an absolute path there.

    Raises:
        DeviceUnsupportedError: The folder cannot be made.
        DeviceFullError: Because there is no space.
        DeviceLostError: The device does not answer.
    """

    platform: Platform
    description: str
    self_contained = True

    def __init__(self, base: str) -> None:
        self._token = secrets.token_hex(8)
        self._kept = f"{base}/kept"
        self.folder = f"{base}/run-{self._token}"
        self._in = f"{self.folder}/in"
        self._runs = 0
        self._there: dict[str, str] = {}  # sha256 -> the path there
        self._open(base)

    @abstractmethod
    def _shell(self, command: str, timeout_seconds: float) -> Completed:
        """Run a short command in the device's shell; what its client says is the outcome."""

    @abstractmethod
    def _send(self, files: Sequence[Path], folder: str, timeout_seconds: float) -> Completed:
        """Copy files into a folder there, by their names here."""

    @abstractmethod
    def _receive(self, names: Sequence[str], folder: Path, timeout_seconds: float) -> Completed:
        """Copy files of the run's folder into a local one."""

    def push(self, files: Mapping[str, Path], *, keep: bool = False) -> None:
        """Put files into the folder, by their names there; what is already there is not sent again.

        Raises:
            DeviceFullError: There is no space for them.
            DeviceLostError: The device does not answer.
        """
        hashes = {name: _sha256(path) for name, path in files.items()}
        missing = {hashes[name]: path for name, path in files.items() if hashes[name] not in self._there}
        home = self._kept if keep else self._in
        lines = [f"chmod 755 {_quoted(f'{self._in}/{sha256}')}" for sha256 in missing]
        lines += [
            f"mv -f {_quoted(f'{self._in}/{sha256}', f'{home}/{sha256}')}" for sha256 in missing if keep
        ]
        places = self._there | {sha256: f"{home}/{sha256}" for sha256 in missing}
        for name, sha256 in hashes.items():
            lines.append(f"ln -sf {_quoted(places[sha256], f'{self.folder}/{name}')}")
        done = self._run_script("set -e\n" + "\n".join(lines), missing, SECONDS)
        if not done.ok:
            raise self._refused("files cannot be put into the device's folder", done)
        self._there = places

    def run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        """Run a pushed program in the folder.

        Raises:
            DeviceLostError: The connection broke before the program ended.
        """
        program, *arguments = argv
        command = [program if "/" in program else f"./{program}", *arguments]
        # The number of the process group, by which all of it can be killed.
        running = f"running-{self._runs}"
        script = (
            f"cd {_quoted(self.folder)} || exit\n"
            f"read -r _ _ _ _ group _ < /proc/$$/stat && echo $group > {running}\n"
            f"{_quoted(*command)} < /dev/null\n"
            f"code=$?\nrm -f {running}\n(exit $code)"
        )
        done = self._run_script(script, {}, timeout_seconds)
        if done.timed_out:
            self._execute(self._kill_script(), SECONDS)
        return done

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copy files of the folder.

        Raises:
            RunnerFailedError: There is no such file, or it cannot be copied.
            DeviceLostError: The device does not answer.
        """
        done = self._receive(names, folder, _SEND_SECONDS)
        if done.ok:
            return
        tests = "\n".join(f"[ -e {_quoted(name)} ] || echo missing {_quoted(name)}" for name in names)
        answer = self._execute(f"cd {_quoted(self.folder)}\n{tests}", SECONDS)
        for missing in re.findall(r"^missing (\S+)", answer.stdout, re.MULTILINE):
            raise RunnerFailedError(f"the runner did not write {missing!r}")
        raise RunnerFailedError(
            "what the runner wrote cannot be copied", where=self.description, log=done.last_lines()
        )

    def close(self) -> None:
        """End what still runs there and remove the run's folder; a device that is gone keeps it."""
        with suppress(EdgecompileError, OSError):
            self._execute(f"{self._kill_script()}\nrm -rf {_quoted(self.folder)}", _CLOSE_SECONDS)

    def _open(self, base: str) -> None:
        """Make the folders, remove what lost connections left, and list what is kept."""
        stale = f"find {_quoted(base)} -maxdepth 1 -name 'run-*' -mtime +1 -exec rm -rf {{}} + 2>/dev/null"
        done = self._execute(
            f"mkdir -p {_quoted(self._kept, self._in)} || exit\n{stale}\nls -ln {_quoted(self._kept)}",
            SECONDS,
        )
        if not done.ok:
            raise self._refused("the device's folder cannot be made", done, where=base)
        # An empty file is what a power cut leaves of one that had just been renamed.
        for size, sha256 in re.findall(
            r"^\S+ +\d+ +\S+ +\S+ +(\d+) .* ([0-9a-f]{64})\r?$", done.stdout, re.MULTILINE
        ):
            if size != "0":
                self._there[sha256] = f"{self._kept}/{sha256}"

    def _run_script(self, script: str, files: Mapping[str, Path], timeout_seconds: float) -> Completed:
        """Send a script, with files by their hashes, and run it; old clients cut long commands off."""
        self._runs += 1
        with tempfile.TemporaryDirectory() as local:
            file = Path(local) / f"script-{self._runs}"
            file.write_text(self._marked(script), encoding="utf-8")
            for sha256, path in files.items():
                (Path(local) / sha256).symlink_to(path.absolute())
            sent = self._send([*(Path(local) / sha256 for sha256 in files), file], self._in, _SEND_SECONDS)
        if not sent.ok:
            raise self._not_sent(sent, sum(path.stat().st_size for path in files.values()))
        return self._read(self._shell(f"sh {_quoted(f'{self._in}/{file.name}')}", timeout_seconds))

    def _execute(self, script: str, timeout_seconds: float) -> Completed:
        """Run a short script at once."""
        done = self._read(self._shell(f"sh -c {_quoted(self._marked(script))} < /dev/null", timeout_seconds))
        if done.timed_out:
            raise DeviceLostError(
                f"the device did not answer within {timeout_seconds:g} s", where=self.description
            )
        return done

    def _marked(self, script: str) -> str:
        return f"(\n{script}\n)\nprintf '\\n%s %s\\n' ended-{self._token} $?\n"

    def _read(self, done: Completed) -> Completed:
        """Return how the script itself ended, whatever the client says."""
        if done.timed_out:
            return done
        mark = re.search(rf"\r?\n?ended-{self._token} (\d+)\s*\Z", done.stdout)
        if mark is None:
            raise DeviceLostError(
                "the connection to the device broke",
                where=self.description,
                found=done.outcome(),
                log=done.last_lines(),
                hint="is it still on, and connected?",
            )
        code = int(mark[1])
        number = code - 128  # how a shell tells that a signal ended a program
        signal = _SIGNALS.get(number, f"signal {number}") if 0 < number <= 64 else None
        return Completed(
            exit_code=code, stdout=done.stdout[: mark.start()], stderr=done.stderr, signal=signal
        )

    def _kill_script(self) -> str:
        files = f"{_quoted(self.folder)}/running-*"
        kill = 'read -r group < "$file" && kill -9 -$group; rm -f "$file"'  # its number may be given anew
        return f"for file in {files}; do {kill}; done 2>/dev/null"

    def _not_sent(self, sent: Completed, size_bytes: int) -> EdgecompileError:
        free = re.findall(r"(\d+)\s+\d+%", self._execute(f"df -k {_quoted(self._in)}", SECONDS).stdout)
        free_bytes = int(free[-1]) * 1024 if free else None
        no_space = "No space left" in sent.stdout + sent.stderr
        if no_space or (free_bytes is not None and free_bytes < size_bytes):
            found = f"{free_bytes / 1e6:.1f} MB are free" if free_bytes is not None else None
            return _full(self.description, f"{size_bytes / 1e6:.1f} MB", found, sent)
        return DeviceLostError(
            "files cannot be sent to the device",
            where=self.description,
            found=sent.outcome(),
            log=sent.last_lines(),
        )

    def _refused(self, message: str, done: Completed, where: str | None = None) -> EdgecompileError:
        if "No space left" in done.stdout + done.stderr:
            return _full(self.description, None, None, done)
        place = f"{where} on {self.description}" if where else self.description
        return DeviceUnsupportedError(message, where=place, found=done.outcome(), log=done.last_lines())


def is_like_this_machine(architecture: str) -> bool:
    """Tell whether a Linux of this architecture, as `uname -m` names it, runs what is built for the host."""
    return architecture == machine() == "x86_64" and sys.platform == "linux"


def _full(where: str, expected: str | None, found: str | None, done: Completed) -> DeviceFullError:
    return DeviceFullError(
        "the device has no space left",
        where=where,
        expected=expected,
        found=found,
        log=done.last_lines(),
        hint="free some space on it",
    )


def _quoted(*words: str) -> str:
    return shlex.join(words)


def _sha256(path: Path) -> str:
    found = path.stat()
    return _hash(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)  # the runner's files are the same in every run
def _hash(path: Path, size_bytes: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
