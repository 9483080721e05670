"""A board that is reached with the user's own ssh: keys, aliases and host-key checking are what they are.

All goes over one connection of the client (its ControlMaster), which is opened once and closed at the end.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgecompile.connections._remote_folder import SECONDS, RemoteFolder, is_like_this_machine
from edgecompile.engine_libraries import Platform
from edgecompile.errors import DeviceUnreachableError, DeviceUnsupportedError, ToolMissingError, UsageError
from edgecompile.process import Completed, run_process

_CONNECT_SECONDS = 10
_CLIENT_FAILED = 255

# What the client says -> what to do.
_HINTS = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "is it another board now? Then `ssh-keygen -R HOST` forgets "
    "the old key, and `ssh USER@HOST` asks about the new one",
    "Host key verification failed": "connect once with `ssh USER@HOST`, and compare the key that it shows",
    "Permission denied": "let `ssh-copy-id USER@HOST` install your key, or unlock it with `ssh-add`: "
    "no password is asked for here",
    "Connection refused": "is an ssh server running there, on that port?",
    "Could not resolve hostname": "is the name right, and the board on this network?",
    "timed out": "is the board on, and on this network?",
    "No route to host": "is the board on, and on this network?",
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a board is: USER@HOST[:PORT]; a HOST with colons of its own stands in brackets."""

    user: str
    host: str
    port: int | None


def parse_address(text: str) -> Address:
    """Read USER@HOST[:PORT].

    Raises:
        UsageError: It has another form, or a part that ssh could take for something else.
    """
    match = re.fullmatch(
        r"(?P<user>[^\s@:]+)@(?:\[(?P<bracketed>[^\s\[\]]+)\]|(?P<plain>[^\s@:\[\]]+))(?::(?P<port>\d{1,5}))?",
        text,
    )
    expected = "USER@HOST, USER@HOST:PORT or USER@[IPV6]:PORT"
    if match is None:
        raise UsageError(f"'{text}' is no address of a board", expected=expected)
    user, host = match["user"], match["bracketed"] or match["plain"]
    if user.startswith("-") or host.startswith("-") or not (user + host).isprintable():
        raise UsageError(f"{text!r} is no address of a board", expected=expected)
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise UsageError(f"there is no port {port}", expected="1 to 65535")
    return Address(user=user, host=host, port=port)


class Ssh(RemoteFolder):
    """The connection `ssh:USER@HOST[:PORT]`.

    Raises:
        ToolMissingError: The ssh client is not installed.
        DeviceUnreachableError: The board's server cannot be reached, or does not let us in.
        DeviceUnsupportedError: There is no runner for the board's system.
    """

    def __init__(self, address: Address) -> None:
        self._ssh, self._sftp = _client("ssh"), _client("sftp")
        self._address = address
        # An address of its own for the client's socket; such a path may not be long.
        self._control = tempfile.mkdtemp(prefix="edgecompile-ssh-")
        self.description = f"ssh ({address.user}@{address.host})"
        try:
            system, base = self._look()
            self.platform = _platform(system, self.description)
            super().__init__(base)
        except BaseException:
            self._disconnect()
            raise

    def close(self) -> None:
        """Remove the run's folder and end the connection."""
        super().close()
        self._disconnect()

    def _look(self) -> tuple[str, str]:
        """Return what `uname -sm` says, and the folder for all that is put there."""
        script = 'uname -sm; echo "${XDG_CACHE_HOME:-$HOME/.cache}/edgecompile"'
        done = self._shell(f"sh -c {shlex.quote(script)}", SECONDS)
        lines = done.stdout.splitlines()
        if done.exit_code == _CLIENT_FAILED or done.timed_out:
            said = done.stderr or f"timed out after {SECONDS:g} s"
            hint = next((hint for text, hint in _HINTS.items() if text in said), None)
            name = f"{self._address.user}@{self._address.host}"
            raise DeviceUnreachableError(
                "the board cannot be reached over ssh",
                where=self.description,
                log=done.last_lines(),
                hint=hint.replace("USER@HOST", name).replace("HOST", self._address.host) if hint else None,
            )
        if len(lines) < 2 or not lines[-1].startswith("/"):
            raise DeviceUnsupportedError(
                "the board has no POSIX shell",
                where=self.description,
                found=done.outcome(),
                log=done.last_lines(),
            )
        return lines[-2], lines[-1]

    def _shell(self, command: str, timeout_seconds: float) -> Completed:
        port = ["-p", str(self._address.port)] if self._address.port else []
        options = [*self._options(), *port, "-T", "-l", self._address.user]
        return run_process(
            [self._ssh, *options, "--", self._address.host, command], timeout_seconds=timeout_seconds
        )

    def _send(self, files: Sequence[Path], folder: str, timeout_seconds: float) -> Completed:
        lines = [f"put {_name(str(file))} {_name(f'{folder}/{file.name}')}" for file in files]
        return self._transfer(lines, timeout_seconds)

    def _receive(self, names: Sequence[str], folder: Path, timeout_seconds: float) -> Completed:
        lines = [f"get {_name(f'{self.folder}/{name}')} {_name(str(folder / name))}" for name in names]
        return self._transfer(lines, timeout_seconds)

    def _transfer(self, lines: Sequence[str], timeout_seconds: float) -> Completed:
        """Let sftp do a batch, which ends at the first line that fails."""
        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        port = ["-P", str(self._address.port)] if self._address.port else []
        options = [*self._options(), *port, "-o", f"User={self._address.user}"]
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sftp") as batch:
            batch.write("\n".join(lines) + "\n")
            batch.flush()
            command = [self._sftp, "-q", *options, "-b", batch.name, "--", host]
            return run_process(command, timeout_seconds=timeout_seconds)

    def _options(self) -> list[str]:
        values = {
            "BatchMode": "yes",
            "ConnectTimeout": _CONNECT_SECONDS,
            "ControlMaster": "auto",
            "ControlPath": f"{self._control}/socket",
            "ControlPersist": 60,  # seconds: it must not outlive a run that is killed
            "ServerAliveInterval": 5,
            "ServerAliveCountMax": 3,
        }
        return [word for name, value in values.items() for word in ("-o", f"{name}={value}")]

    def _disconnect(self) -> None:
        with suppress(OSError):
            run_process(
                [self._ssh, *self._options(), "-O", "exit", "--", self._address.host], timeout_seconds=10
            )
        shutil.rmtree(self._control, ignore_errors=True)


def _client(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ToolMissingError(f"the client {name!r} is not installed", hint="apt-get install openssh-client")
    return found


def _platform(system: str, description: str) -> Platform:
    if system in ("Linux aarch64", "Linux arm64"):
        return "linux-arm64"
    if system.startswith("Linux ") and is_like_this_machine(system.removeprefix("Linux ")):
        return "host"
    raise DeviceUnsupportedError(
        f"there is no runner for the board's system, {system!r}",
        where=description,
        expected="64-bit Linux on arm64, or on x86-64 where this machine is one too",
    )


def _name(path: str) -> str:
    """Return a path as sftp's batches quote it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
