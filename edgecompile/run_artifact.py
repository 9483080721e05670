"""Runs an artifact in its native runner over a connection, and reads what the runner measured."""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from edgecompile.connection import Connection
from edgecompile.errors import (
    AlteredFileError,
    EdgecompileError,
    EngineFailedError,
    RunnerFailedError,
    RunnerTimedOutError,
)
from edgecompile.measurement import Measurement, RunnerReport, read_report
from edgecompile.process import Completed
from edgecompile.progress import Progress, QuietProgress
from edgecompile.runner_build import built_runner

_GOLDENS_DIFFER = 4  # the runner's exit code; its report is whole then

# What the runner's stable codes mean here; any other is a failure of the runner itself.
_ERRORS: dict[str, type[EdgecompileError]] = {
    "hash-mismatch": AlteredFileError,
    "load-failed": EngineFailedError,
    "input-mismatch": EngineFailedError,
    "run-failed": EngineFailedError,
}


def run_artifact(
    artifact: Path,
    sha256: str,
    samples: Sequence[Sequence[torch.Tensor]],
    connection: Connection,
    *,
    engine: str,
    threads: int = 1,
    warmup: int = 1,
    iterations: int = 10,
    seconds: float | None = None,
    cpus: Sequence[int] = (),
    precise: bool = False,
    expected: Sequence[Sequence[torch.Tensor]] = (),
    min_sqnr_db: float | None = None,
    tolerance: float = 0.0,
    trace: Path | None = None,
    timeout_seconds: float = 600.0,
    progress: Progress | None = None,
) -> Measurement:
    """Run an artifact on each sample, then measure its time on the first one.

    Args:
        artifact: The model file.
        sha256: What its hash must be; the runner checks it where it runs.
        samples: At least one set of inputs, in the artifact's order.
        connection: Where it runs.
        engine: What executes it.
        threads: Of the engine.
        warmup: Runs before the timed ones.
        iterations: Timed runs; 0 for the outputs alone.
        seconds: Instead of a number of iterations, how long they go on.
        cpus: The CPUs that it may run on; all, if empty.
        precise: Ask for exact integer sums where the CPU's default saturates; the artifact must be the
            engine's `precise_form`.
        expected: For each sample the outputs that the runner itself compares.
        min_sqnr_db: What such a comparison must reach; None compares absolute differences.
        tolerance: The largest absolute difference that passes.
        trace: Where the time of each operator is written to, in the engine's own format.
        timeout_seconds: After this the runner is killed.
        progress: Is told when a runner must be built first.

    Raises:
        ToolMissingError: The runner must be built, and a tool is missing.
        RunnerBuildError: The runner cannot be built.
        AlteredFileError: The artifact is not the one of `sha256`.
        EngineFailedError: The engine rejects the artifact or the inputs.
        RunnerTimedOutError: The runner did not end in time.
        RunnerFailedError: The runner crashed.
    """
    runner = built_runner(
        engine,
        connection.platform,
        progress or QuietProgress(),
        self_contained=connection.self_contained,
    )
    token = secrets.token_hex(4)  # a report or output of another run must never be taken for this one's
    model, report = f"{token}_model{artifact.suffix}", f"{token}_report.json"
    options = ["--model", model, "--sha256", sha256, "--report", report, "--output-dir", "."]
    options += ["--threads", str(threads), "--warmup", str(warmup)]
    options += ["--seconds", repr(seconds)] if seconds else ["--iterations", str(iterations)]
    options += ["--samples", str(len(samples)), "--tolerance", repr(tolerance)]
    options += ["--cpus", ",".join(map(str, cpus))] if cpus else []
    options += ["--min-sqnr-db", repr(min_sqnr_db)] if min_sqnr_db is not None else []
    options += ["--per-op", f"{token}_trace"] if trace else []
    options += ["--precise"] if precise else []
    with tempfile.TemporaryDirectory() as local:
        folder = Path(local)
        for index, tensor in enumerate(itertools.chain.from_iterable(samples)):
            name = f"{token}_input_{index}.raw"
            (folder / name).write_bytes(raw_bytes(tensor))
            options += ["--input", f"{_dtype(tensor)}:{'x'.join(map(str, tensor.shape))}:{name}"]
        for index, tensor in enumerate(itertools.chain.from_iterable(expected)):
            name = f"{token}_expected_{index}.raw"
            (folder / name).write_bytes(raw_bytes(tensor))
            options += ["--expect", name]
        connection.push(runner.files, keep=True)
        connection.push({path.name: path for path in folder.iterdir()} | {model: artifact})
        completed = connection.run([*runner.command, *options], timeout_seconds)
        where = f"{artifact.name} on {connection.description}"
        if completed.timed_out:
            raise RunnerTimedOutError(
                f"the runner did not end within {timeout_seconds:g} s, and was killed",
                where=where,
                log=completed.last_lines(),
            )
        found = _checked(completed, connection, report, folder, where)
        outputs = tuple(_read_outputs(connection, found, index, folder) for index in range(len(samples)))
        if trace:
            connection.fetch([f"{token}_trace"], folder)
            trace.write_bytes((folder / f"{token}_trace").read_bytes())
    return Measurement(connection=connection.description, report=found, outputs=outputs)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements as they lie in memory, little-endian, in the order of its dimensions."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).numpy().tobytes())


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _checked(
    completed: Completed, connection: Connection, report: str, folder: Path, where: str
) -> RunnerReport:
    """Return the report of a run that succeeded; raise what else became of it."""
    log = completed.last_lines()
    if completed.signal:
        raise RunnerFailedError(f"the runner was killed by {completed.signal}", where=where, log=log)
    try:
        connection.fetch([report], folder)
    except RunnerFailedError as error:
        raise RunnerFailedError(
            "the runner ended without a report", where=where, found=completed.outcome(), log=log
        ) from error
    found = read_report((folder / report).read_bytes(), where)
    if completed.exit_code not in (0, _GOLDENS_DIFFER):
        code, message = (found.error.code, found.error.message) if found.error else ("", "no error is told")
        kind = _ERRORS.get(code, RunnerFailedError)
        raise kind(message, where=where, found=f"{completed.outcome()} ({code})", log=log)
    return found


def _read_outputs(
    connection: Connection, report: RunnerReport, sample: int, folder: Path
) -> tuple[torch.Tensor, ...]:
    names = [f"output_{sample}_{index}.raw" for index in range(len(report.outputs))]
    connection.fetch(names, folder)
    tensors = []
    for name, spec in zip(names, report.outputs, strict=True):
        dtype: torch.dtype = getattr(torch, spec.dtype)
        elements = bytearray((folder / name).read_bytes())
        try:
            tensor = torch.frombuffer(elements, dtype=dtype) if elements else torch.empty(0, dtype=dtype)
            tensors.append(tensor.reshape(spec.shape))
        except (ValueError, RuntimeError) as error:
            raise RunnerFailedError(
                f"the runner's output {spec.name!r} has not the size that its report says",
                expected=f"{spec.dtype} {list(spec.shape)}",
                found=f"{len(elements)} bytes",
            ) from error
    return tuple(tensors)
