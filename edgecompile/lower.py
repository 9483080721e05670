"""Lowers programs to artifacts: each distinct one once, whichever targets want it, several at a time.

This process lowers from one end of the list, worker processes from the other. A worker takes seconds to load
its libraries, so it is started as soon as a build is known to have work for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from edgecompile.artifact import Emitted
from edgecompile.lower_worker import Job
from edgecompile.program import CapturedProgram
from edgecompile.stage_cache import Result, StageCache
from edgecompile.stages.emitted import KeptArtifact, Lowering, emitted

# What a process with torch and an emitter's libraries takes, and how often it holds a program's weights.
_PROCESS_BYTES = 8e8
_COPIES_OF_WEIGHTS = 5
_LARGE_BYTES = 256_000_000


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that lowers with one emitter."""

    emitter: str
    process: subprocess.Popen[str]
    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def lower(self, lowering: Lowering) -> bool:
        """Lower, and tell whether the cache has the artifact now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        job = Job(program_key=lowering.program.key, format=lowering.format, settings=lowering.settings)
        with self.lock:  # one answer follows each job
            try:
                self.process.stdin.write(job.to_line())
                self.process.stdin.flush()
            except OSError:
                return False
            return self.process.stdout.readline() == "true\n"


@contextmanager
def workers_for(
    cache: StageCache, emitters: Sequence[str], captured: Result[CapturedProgram], *, jobs: int
) -> Iterator[list[Worker]]:
    """Start a worker for each of the last emitters; this process takes the first ones.

    Where the captured program was reused, most artifacts are reused too, and no worker pays.

    Args:
        cache: Where workers find programs.
        emitters: Those that will have something to lower, each once.
        captured: What will be lowered; no more workers are started than memory holds.
        jobs: The most processes, this one included; 0 for as many as there are CPUs, but for large models,
            which are lowered one after another to save memory.
    """
    each = _PROCESS_BYTES + _COPIES_OF_WEIGHTS * captured.size_bytes
    affordable = psutil.virtual_memory().available // each
    wanted = jobs or (_cpu_count() if captured.size_bytes <= _LARGE_BYTES else 1)
    allowed = min(wanted, int(affordable)) if cache.writable and captured.is_new else 1
    chosen = emitters[1:][-(allowed - 1) :] if allowed > 1 else []
    workers = [Worker(emitter=name, process=_start(cache, name)) for name in chosen]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.communicate()


def lower_all(
    cache: StageCache, lowerings: Sequence[Sequence[Lowering]], workers: Sequence[Worker]
) -> list[list[Result[Emitted]]]:
    """Return the artifacts of each target's lowerings.

    Raises:
        LoweringFailedError: A format cannot express its program.
    """
    distinct = {lowering.key: lowering for row in lowerings for lowering in row}
    missing = [item for key, item in distinct.items() if cache.find(KeptArtifact.name, key) is None]
    own = {worker.emitter: worker for worker in workers}
    with ThreadPoolExecutor(max(len(workers), 1)) as threads:
        given: dict[str, Future[bool]] = {
            item.key: threads.submit(own[item.settings.emitter].lower, item)
            for item in missing
            if item.settings.emitter in own
        }
        try:
            for item in missing:
                if item.key not in given:
                    emitted(cache, item).drop()
            for key, future in given.items():
                _finish(cache, distinct[key], future)
        except BaseException:
            for worker in workers:  # else the threads would wait for them
                worker.process.kill()
            raise
    return [[emitted(cache, lowering) for lowering in row] for row in lowerings]


def _finish(cache: StageCache, lowering: Lowering, future: Future[bool]) -> None:
    """Wait for a worker's artifact; without one, lower here."""
    cache.progress.start(f"emit {lowering.format}")
    entry = cache.find(KeptArtifact.name, lowering.key) if future.result() else None
    if entry is None:
        cache.progress.finish("not done by its process, done here")
        emitted(cache, lowering).drop()
    else:
        cache.progress.finish(f"{entry.size_bytes / 1e6:.2f} MB")
        emitted(cache, lowering, is_new=True)


def _start(cache: StageCache, emitter: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgecompile.lower_worker", str(cache.folder), emitter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
