"""Results of a build's stages, kept by what they were made from: what has not changed is not made again.

A result is known by its digest, the hash of what it is. The key under which it is kept is the hash of what it
is made from: digests of earlier results, settings, versions. So a build that changes nothing reads digests
alone, and one whose source changed without changing the program makes nothing after the capture again.

Each result is two files, the header (`KEY.json`) and the data. The data is written first and renamed, the
header last, so a killed process leaves no result that looks whole; and both are checked when they are read.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout

from edgecompile.cache import digest
from edgecompile.progress import Progress

T = TypeVar("T")

SCHEMA_VERSION = 1
STATE = ".state"
"""What a file is called, after its key, with the state of a long computation that was interrupted."""
_LARGE_BYTES = 100_000_000
_PARTIAL, _LOCK, _HEADER, _DATA = ".partial", ".lock", ".json", ".data"


class ResultChangedError(Exception):
    """A result had to be made again, and is another one now: what was made from it must be made again too."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The header of a result.

    Attributes:
        stage: What made it, `capture`.
        key: The hash of what it was made from.
        digest: The SHA-256 of the data.
        size_bytes: Of the data.
        summary: Small facts beside the data that need not be the same when it is made again, as times.
    """

    stage: str
    key: str
    digest: str
    size_bytes: int
    summary: dict[str, Any]


class Stage(Protocol[T]):
    """How one kind of result is kept: equal results must give equal data."""

    name: str

    def write(self, value: T, file: HashedFile) -> dict[str, Any]:
        """Write the data, and return the summary."""
        ...

    def read(self, path: Path, summary: dict[str, Any]) -> T:
        """Return the result; may raise anything where the data has another form."""
        ...

    def can_keep(self, value: T) -> bool:
        """Tell whether `read` can give the same result back."""
        ...


class HashedFile(io.RawIOBase):
    """Hashes all that is written to it, and writes it on where there is a file."""

    def __init__(self, file: BinaryIO | None) -> None:
        super().__init__()
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        """It can only be written."""
        return True

    def write(self, data: Any, /) -> int:
        """Take bytes, and return how many."""
        self._hash.update(data)
        self.size_bytes += len(data)
        if self._file is not None:
            self._file.write(data)
        return len(data)

    def digest(self) -> str:
        """Return the SHA-256 of all bytes so far, in hexadecimal."""
        return self._hash.hexdigest()


class Result(Generic[T]):
    """One stage's result: its digest is known, the rest is read or made when it is asked for."""

    def __init__(self, entry: Entry, load: Callable[[], T] | None, value: T | None = None) -> None:
        self._entry = entry
        self._load = load
        self._value = value
        self._is_new = value is not None

    @property
    def digest(self) -> str:
        """What it is, in 64 hexadecimal digits."""
        return self._entry.digest

    @property
    def key(self) -> str:
        """What it was made from."""
        return self._entry.key

    @property
    def is_new(self) -> bool:
        """Whether this process made it."""
        return self._is_new

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return self._entry.size_bytes

    @property
    def summary(self) -> dict[str, Any]:
        """The small facts beside it."""
        return self._entry.summary

    def value(self) -> T:
        """Return it, read from the cache on first use.

        Raises:
            ResultChangedError: The cache's copy is damaged, and made again it is another one.
        """
        if self._value is None:
            assert self._load is not None  # what cannot be read again is never dropped
            self._value = self._load()
        return self._value

    def drop(self) -> None:
        """Let the memory go, where the cache has it."""
        if self._load is None or self._value is None:
            return
        self._value = None
        if self.size_bytes > _LARGE_BYTES:
            gc.collect()  # programs are full of cycles


class StageCache:
    """The results in one folder, shared by all processes of a user.

    Attributes:
        folder: Where they are.
        progress: Is told of what is reused, and of what is wrong with the cache.
        writable: Whether results are kept; False after the first that could not be.
        planned: In a dry run, what was looked for and whether it is there; else None.
    """

    def __init__(self, folder: Path, progress: Progress, *, dry: bool = False) -> None:
        self.folder = folder
        self.planned: list[tuple[str, bool]] | None = [] if dry else None
        self.writable = True
        self.progress = progress
        self._results: dict[tuple[str, str], Result[Any]] = {}

    def add(self, stage: Stage[T], key: str, value: T, make: Callable[[], T]) -> Result[T]:
        """Return a result that had to be made before its key was known; `make` makes it once more."""
        entry = self.find(stage.name, key) or self._keep(stage, key, value)
        return self._known(stage, entry, value, make)

    def result(self, stage: Stage[T], key: str, make: Callable[[], T], label: str = "") -> Result[T]:
        """Return the result of a stage, making it where it is not there.

        Two processes that need the same result at once make it once.

        Args:
            stage: How it is kept.
            key: The digest of all that it depends on.
            make: Makes it.
            label: What progress calls it where it is reused; "" says nothing.
        """
        known = self._results.get((stage.name, key))
        if known is not None:
            return known
        entry = self.find(stage.name, key)
        if self.planned is not None:
            self.planned.append((label or stage.name, entry is not None))
            if entry is None:
                return self.unknown(stage.name, key)
        value = None
        if entry is None:
            with self.alone(stage.name, key):
                entry = self.find(stage.name, key)  # another process may have made it meanwhile
                if entry is None:
                    value = make()
                    entry = self._keep(stage, key, value)
        if value is None and label:
            self.progress.start(label)
            self.progress.finish("reused")
        return self._known(stage, entry, value, make)

    def _known(self, stage: Stage[T], entry: Entry, value: T | None, make: Callable[[], T]) -> Result[T]:
        is_kept = value is None or (self.writable and stage.can_keep(value))
        load = partial(self._read, stage, entry, make) if is_kept else None
        self._results[stage.name, entry.key] = result = Result(entry, load, value)
        return result

    def value(self, stage: Stage[T], key: str, make: Callable[[], T], label: str = "") -> T:
        """Return what `result` does, and hold on to neither the value nor what makes it."""
        value = self.result(stage, key, make, label).value()
        self._results.pop((stage.name, key), None)
        return value

    def unwritten(self, stage: str, key: str, make: Callable[[], T], *, size_bytes: int) -> Result[T]:
        """Return a result that is never written: it is made when it is asked for, and again after `drop`.

        Args:
            stage: What makes it.
            key: The digest of all that it depends on; it stands for what the result is as well.
            make: Makes it, always the same.
            size_bytes: About what it takes in memory.
        """
        known = self._results.get((stage, key))
        if known is None:
            entry = Entry(stage=stage, key=key, digest=key, size_bytes=size_bytes, summary={})
            known = self._results[stage, key] = Result(entry, make)
        return known

    def unknown(self, stage: str, key: str) -> Result[Any]:
        """Return what stands for a result that a dry run does not make: nothing is made from it yet."""
        entry = Entry(stage=stage, key=key, digest=f"not made: {key}", size_bytes=0, summary={"spec": ""})
        result: Result[Any] = Result(entry, None)
        self._results[stage, key] = result
        return result

    def unkept(self, stage: Stage[T], value: T) -> Result[T]:
        """Return a result that no key stands for, which lives as long as this process."""
        hashed = HashedFile(None)
        summary = stage.write(value, hashed)
        return Result(_entry(stage.name, secrets.token_hex(32), hashed, summary), None, value)

    def find(self, stage: str, key: str) -> Entry | None:
        """Return the header of a result, and mark it as used; None where there is none."""
        header = self._path(stage, key, _HEADER)
        try:
            document = json.loads(header.read_bytes())
            own = document.pop("sha256")
            if own != _own_digest(document) or document.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError("it was altered")
            entry = Entry(**document)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._note_damage(stage, error)
            self.forget(stage, key)
            return None
        with contextlib.suppress(OSError):
            os.utime(header)  # the least recently used are removed first
        return entry

    def forget(self, stage: str, key: str) -> None:
        """Remove a result."""
        self._results.pop((stage, key), None)
        for suffix in (_HEADER, _DATA):
            with contextlib.suppress(OSError):
                self._path(stage, key, suffix).unlink(missing_ok=True)

    def put(self, stage: str, key: str, summary: dict[str, Any]) -> None:
        """Keep a summary alone, in place of an earlier one with this key."""
        entry = Entry(
            stage=stage, key=key, digest=hashlib.sha256(b"").hexdigest(), size_bytes=0, summary=summary
        )
        if self.writable:
            with self._noting_failure():
                self._make_folder(stage)
                self._write_header(entry)

    def _read(self, stage: Stage[T], entry: Entry, make: Callable[[], T]) -> T:
        """Read a result; where that is not possible, make it again."""
        path = self._path(stage.name, entry.key, _DATA)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != entry.digest:
                raise ValueError("its SHA-256 is another")
            return stage.read(path, entry.summary)
        # Whatever a damaged file leads to, the result can be made again.
        except Exception as error:
            self._note_damage(stage.name, error)
            self.forget(stage.name, entry.key)
        value = make()
        if self._keep(stage, entry.key, value).digest != entry.digest:
            raise ResultChangedError(stage.name)
        return value

    def _keep(self, stage: Stage[T], key: str, value: T) -> Entry:
        """Write a result and return its header; where it cannot be written, hash it alone."""
        if self.writable and stage.can_keep(value):
            with self._noting_failure():
                return self._write(stage, key, value)
        hashed = HashedFile(None)
        summary = stage.write(value, hashed)
        return _entry(stage.name, key, hashed, summary)

    def _write(self, stage: Stage[T], key: str, value: T) -> Entry:
        self._make_folder(stage.name)
        with _written_aside(self._path(stage.name, key, _DATA)) as file:
            hashed = HashedFile(file)
            summary = stage.write(value, hashed)
        entry = _entry(stage.name, key, hashed, summary)
        self._write_header(entry)
        return entry

    def _write_header(self, entry: Entry) -> None:
        document = {"schema_version": SCHEMA_VERSION, **vars(entry)}
        document["sha256"] = _own_digest(document)
        with _written_aside(self._path(entry.stage, entry.key, _HEADER)) as file:
            file.write(json.dumps(document).encode())

    def _make_folder(self, stage: str) -> None:
        (self.folder / stage).mkdir(parents=True, exist_ok=True)

    def _path(self, stage: str, key: str, suffix: str) -> Path:
        return self.folder / stage / f"{key}{suffix}"

    @contextlib.contextmanager
    def alone(self, stage: str, key: str) -> Iterator[None]:
        """Hold the lock of a key, where the cache can be written at all."""
        lock: FileLock | None = None
        if self.writable and self.planned is None:
            with self._noting_failure():
                self._make_folder(stage)
                lock = FileLock(self._path(stage, key, _LOCK))
                try:
                    lock.acquire(blocking=False)
                except Timeout:
                    self.progress.start(f"wait for another build's {stage}")
                    lock.acquire()
                    self.progress.finish()
        try:
            yield
        finally:
            if lock is not None and lock.is_locked:
                # Whoever waits holds this file, and a later one makes its own: at worst both make the result.
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Go on without keeping results after the first that cannot be written, and say so once."""
        try:
            yield
        except OSError as error:
            self.writable = False
            self.progress.note(
                f"the cache cannot be written ({error.strerror or error}: {self.folder}); "
                "the build goes on without it"
            )

    def _note_damage(self, stage: str, error: BaseException) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.progress.note(f"the cached {stage} cannot be read ({reason}); it is made again")


@contextlib.contextmanager
def _written_aside(final: Path) -> Iterator[BinaryIO]:
    """Give a file beside the final one, to be renamed when it is whole and removed when it is not."""
    handle, name = tempfile.mkstemp(prefix=f"{final.stem}.", suffix=_PARTIAL, dir=final.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).replace(final)
    finally:
        Path(name).unlink(missing_ok=True)


def _entry(stage: str, key: str, hashed: HashedFile, summary: dict[str, Any]) -> Entry:
    return Entry(stage=stage, key=key, digest=hashed.digest(), size_bytes=hashed.size_bytes, summary=summary)


def _own_digest(document: dict[str, Any]) -> str:
    return digest(json.dumps(document, sort_keys=True))
