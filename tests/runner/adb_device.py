"""A stand-in for adbd, for no package has one: speaks adb's wire protocol over TCP to the real client.

Commands run in this machine's shell, with a `getprop` of the stand-in's own; files are this machine's.
The protocol: https://android.googlesource.com/platform/packages/modules/adb/+/refs/heads/main/docs/dev/
(protocol.md, sync.md, and shell_protocol.h for `shell,v2`).
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
VERSION, MAX_DATA = 0x01000001, 1 << 18
STDOUT, STDERR, EXIT = 1, 2, 3  # packets of `shell,v2`


class Stream:
    """One service that the host opened; each piece that we write to it waits for an okay."""

    def __init__(self, link: Link, own: int, theirs: int) -> None:
        self.link, self.own, self.theirs = link, own, theirs
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.okay = threading.Semaphore(0)
        self.buffer = b""

    def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            piece = self.arrived.get()
            if not piece:
                raise EOFError
            self.buffer += piece
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_DATA):
            self.link.send(WRTE, self.own, self.theirs, data[start : start + MAX_DATA])
            self.okay.acquire()

    def close(self) -> None:
        self.link.send(CLSE, self.own, self.theirs)


class Link:
    """One host's connection."""

    def __init__(self, device: AdbDevice, connection: socket.socket) -> None:
        self.device, self.connection = device, connection
        self.streams: dict[int, Stream] = {}
        self.lock = threading.Lock()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        header = struct.pack("<6I", command, first, second, len(data), sum(data), command ^ 0xFFFFFFFF)
        with self.lock, suppress(OSError):
            self.connection.sendall(header + data)

    def serve(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                command, first, second, size, _, _ = struct.unpack("<6I", self._read(24))
                self._answer(command, first, second, self._read(size))
        for stream in self.streams.values():
            stream.arrived.put(b"")
            stream.okay.release()

    def _answer(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH) and self.device.unauthorized:
            if command == CNXN or first == 2:
                self.send(AUTH, 1, 0, bytes(20))  # a token to sign; no signature and no key is accepted
        elif command == CNXN:
            self.send(CNXN, VERSION, MAX_DATA, self.device.banner())
        elif command == OPEN:
            stream = Stream(self, len(self.streams) + 1, first)
            self.streams[stream.own] = stream
            self.send(OKAY, stream.own, stream.theirs)
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=self.device.serve, args=(stream, service), daemon=True).start()
        elif command == WRTE:
            self.streams[second].arrived.put(data)
            self.send(OKAY, second, first)
        elif command == OKAY:
            self.streams[second].okay.release()
        elif command == CLSE and second in self.streams:
            self.streams[second].arrived.put(b"")
            self.streams[second].okay.release()

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.connection.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


class AdbDevice:
    """A device that listens on a free port of 127.0.0.1.

    Args:
        folder: For its own `getprop`.
        properties: What `getprop` says.
        features: "" for a device of before Android 7, whose shell tells no exit code.
        unauthorized: It never accepts the host's key.
    """

    def __init__(
        self,
        folder: Path,
        properties: dict[str, str],
        *,
        features: str = "shell_v2,cmd",
        unauthorized: bool = False,
    ) -> None:
        self.properties, self.features, self.unauthorized = properties, features, unauthorized
        self.full = False
        self.received: list[int] = []  # the sizes of the files that came
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        cases = "".join(f"{name}) echo {shlex.quote(value)};;\n" for name, value in properties.items())
        (self.bin / "getprop").write_text(f"#!/bin/sh\ncase $1 in\n{cases}*) echo;;\nesac\n")
        (self.bin / "getprop").chmod(0o755)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.connections: list[socket.socket] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def banner(self) -> bytes:
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        known = "".join(f"{name}={self.properties.get(name, 'x')};" for name in names)
        return f"device::{known}features={self.features}".encode()

    def disappear(self) -> None:
        """Drop off the bus, with all that ran."""
        for open_socket in (self.server, *self.connections):
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
            open_socket.close()
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def serve(self, stream: Stream, service: str) -> None:
        name, _, rest = service.partition(":")
        with suppress(EOFError):
            if name == "sync":
                self._sync(stream)
            elif name.split(",")[0] == "shell":
                self._shell(stream, rest, packets="v2" in name.split(","))
        stream.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.server.accept()
                self.connections.append(connection)
                threading.Thread(target=Link(self, connection).serve, daemon=True).start()

    def _shell(self, stream: Stream, command: str, *, packets: bool) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if packets else subprocess.STDOUT,
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"},
            start_new_session=True,
        )
        self.processes.append(process)
        if not packets:  # a terminal between, with its ends of lines, and no exit code
            for data in _pieces(process.stdout):
                stream.write(data.replace(b"\n", b"\r\n"))
            process.wait()
            return

        def copy(pipe, kind: int) -> None:
            for data in _pieces(pipe):
                with lock:
                    stream.write(struct.pack("<BI", kind, len(data)) + data)

        lock = threading.Lock()
        errors = threading.Thread(target=copy, args=(process.stderr, STDERR))
        errors.start()
        copy(process.stdout, STDOUT)
        errors.join()
        code = process.wait()
        stream.write(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))

    def _sync(self, stream: Stream) -> None:
        while True:
            name, size = struct.unpack("<4sI", stream.read(8))
            text = stream.read(size).decode() if name != b"QUIT" else ""
            if name == b"QUIT":
                return
            if name == b"STAT":
                found = Path(text).stat() if Path(text).exists() else None
                values = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
                stream.write(b"STAT" + struct.pack("<3I", *values))
            elif name == b"SEND":
                self._take(stream, Path(text.rpartition(",")[0]))
            elif name == b"RECV":
                self._give(stream, Path(text))

    def _take(self, stream: Stream, path: Path) -> None:
        pieces = []
        while (found := struct.unpack("<4sI", stream.read(8)))[0] == b"DATA":
            pieces.append(stream.read(found[1]))
        data = b"".join(pieces)
        self.received.append(len(data))
        try:
            if self.full and len(data) > 100_000:
                raise OSError(28, "No space left on device")
            path.write_bytes(data)
        except OSError as error:
            _fail(stream, f"couldn't create file: {error.strerror}")
        else:
            stream.write(b"OKAY" + struct.pack("<I", 0))

    def _give(self, stream: Stream, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            _fail(stream, f"open failed: {error.strerror}")
            return
        for start in range(0, len(data), 1 << 16):
            piece = data[start : start + (1 << 16)]
            stream.write(b"DATA" + struct.pack("<I", len(piece)) + piece)
        stream.write(b"DONE" + struct.pack("<I", 0))


def _pieces(pipe) -> Iterator[bytes]:
    while data := os.read(pipe.fileno(), 1 << 15):
        yield data


def _fail(stream: Stream, message: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(message)) + message.encode())
