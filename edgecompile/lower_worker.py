"""A process that lowers programs for a build: it finds them in the build's cache, and leaves artifacts there.

    python -m edgecompile.lower_worker CACHE EMITTER

Each line of the standard input is a `Job`, each line of the standard output says whether it was done. What
fails here is done again, and reported, by the build.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.emitter import load_emitter
from edgecompile.progress import QuietProgress
from edgecompile.stage_cache import Result, StageCache
from edgecompile.stages.emitted import Lowering, emitted
from edgecompile.stages.quantized import Quantized
from edgecompile.target import EmitSettings


@dataclass(frozen=True, kw_only=True)
class Job:
    """A lowering, by the key of its program in the cache."""

    program_key: str
    format: str
    settings: EmitSettings

    def to_line(self) -> str:
        """Return it as one line."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        """Return the job of a line."""
        document = json.loads(line)
        return cls(**document | {"settings": EmitSettings(**document["settings"])})


def main() -> None:
    """Lower until the standard input ends, or the build does."""
    folder, emitter = sys.argv[1:3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the build is interrupted, and ends this
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    load_emitter(emitter)
    cache = StageCache(Path(folder), QuietProgress())
    while True:
        done = _is_done(cache, Job.from_line(lines.get()))
        answers.write(json.dumps(done) + "\n")
        answers.flush()


def _read(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # in the midst of a lowering too: nobody waits for it


def _is_done(cache: StageCache, job: Job) -> bool:
    def gone() -> Any:
        raise LookupError("the program is gone")

    try:
        program: Result[Any] = cache.result(Quantized(), job.program_key, gone)
        emitted(cache, Lowering(program=program, format=job.format, settings=job.settings))
    except Exception:
        return False
    return cache.writable


if __name__ == "__main__":
    main()
