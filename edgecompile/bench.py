"""`edgecompile bench`: the artifacts' times, measured in turns, so that what disturbs one disturbs all."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecompile.connection import Connection
from edgecompile.contender import Contender, EngineOptions
from edgecompile.measurement import CpuState, Latency, Measurement
from edgecompile.progress import Progress
from edgecompile.text_table import render, table


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A contender's time by that of the first one, each as the median of a round.

    Attributes:
        median: Over the rounds.
        low: The first quartile.
        high: The third quartile.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one contender, over all rounds.

    Attributes:
        latency_ms: Of all timed iterations together.
        load_ms: The median over the rounds, each of which loads anew.
        first_inference_ms: The same.
        peak_memory_bytes: The most that a round's process took.
        model_memory_bytes: How much the process grew from before loading to its peak; the median.
        cpu: After the last round.
    """

    latency_ms: Latency
    iterations: int
    ratio: Ratio
    load_ms: float
    first_inference_ms: float
    peak_memory_bytes: int
    model_memory_bytes: int
    cpu: CpuState


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The times of all contenders in one place."""

    connection: str
    threads: int
    rounds: int
    timings: tuple[tuple[Contender, Timing], ...]

    def text(self) -> str:
        """Return the table for a terminal."""
        head = f"{self.connection}, {_count(self.threads, 'thread')}, {_count(self.rounds, 'round')}"
        times = table(
            "artifact", "weights", "p50 ms", "p90 ms", "ratio", "quartiles", "load ms", "first ms", "model MB"
        )
        for contender, row in self.timings:
            times.add_row(
                contender.label,
                contender.precision,
                f"{row.latency_ms.p50:.3f}",
                f"{row.latency_ms.p90:.3f}",
                f"{row.ratio.median:.3f}",
                f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
                f"{row.load_ms:.1f}",
                f"{row.first_inference_ms:.1f}",
                f"{row.model_memory_bytes / 1e6:.1f}",
            )
        state = _state_text(self.timings[-1][1].cpu)
        return "\n".join([head + "\n", render(times)] + ([f"  CPU at the end: {state}\n"] if state else []))

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON's types."""
        return {
            "connection": self.connection,
            "threads": self.threads,
            "rounds": self.rounds,
            "artifacts": [
                {**contender_dict(contender), **dataclasses.asdict(timing)}
                for contender, timing in self.timings
            ],
        }


def bench(
    contenders: Sequence[Contender],
    connection: Connection,
    engine: EngineOptions,
    *,
    rounds: int,
    seconds: float,
    progress: Progress,
) -> Bench:
    """Time the contenders in turns: every round runs each of them once, in a process of its own.

    Every second round goes backwards, so that a machine that slowly heats up favours none.

    Args:
        contenders: At least one.
        connection: Where they run.
        engine: How the engines run.
        rounds: At least one.
        seconds: How long each contender's iterations go on in a round; at least one is timed.
        progress: Is told of each run.
    """
    measured: dict[str, list[Measurement]] = {contender.label: [] for contender in contenders}
    progress.start("measure", total=rounds * len(contenders))
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            run = contender.run(connection, engine, seconds=seconds)
            measured[contender.label].append(run)
            progress.advance()
    progress.finish()
    first = measured[contenders[0].label]
    return Bench(
        connection=connection.description,
        threads=engine.threads,
        rounds=rounds,
        timings=tuple((contender, _timing(measured[contender.label], first)) for contender in contenders),
    )


def contender_dict(contender: Contender) -> dict[str, Any]:
    """Return what a JSON row says of an artifact."""
    item = contender.artifact
    return {
        "artifact": contender.label,
        "bundle": str(contender.bundle),
        "format": item.format,
        "engine": item.engine,
        "precision": contender.precision,
        "size_bytes": item.size_bytes,
        "sha256": item.sha256,
    }


def _timing(runs: list[Measurement], first: list[Measurement]) -> Timing:
    latencies = np.concatenate([run.report.latencies_ms for run in runs])
    ratios = [_median_ms(run) / _median_ms(base) for run, base in zip(runs, first, strict=True)]
    memories = [run.report.memory_bytes for run in runs]
    return Timing(
        latency_ms=_latency(latencies),
        iterations=len(latencies),
        ratio=Ratio(
            median=statistics.median(ratios),
            low=float(np.quantile(ratios, 0.25)),
            high=float(np.quantile(ratios, 0.75)),
        ),
        load_ms=statistics.median(run.report.load_ms or 0.0 for run in runs),
        first_inference_ms=statistics.median(run.report.first_inference_ms or 0.0 for run in runs),
        peak_memory_bytes=max(memory.after_run.peak for memory in memories),
        model_memory_bytes=round(
            statistics.median(memory.after_run.peak - memory.before_load.resident for memory in memories)
        ),
        cpu=runs[-1].report.cpu,
    )


def _median_ms(run: Measurement) -> float:
    return statistics.median(run.report.latencies_ms)


def _latency(milliseconds: np.ndarray[Any, np.dtype[np.float64]]) -> Latency:
    # Percentiles are values that occurred (nearest rank), as in the runner.
    p50, p90, p99 = np.quantile(milliseconds, [0.5, 0.9, 0.99], method="inverted_cdf")
    return Latency(
        min=float(milliseconds.min()),
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        mean=float(milliseconds.mean()),
        stddev=float(milliseconds.std(ddof=1)) if len(milliseconds) > 1 else 0.0,
    )


def _state_text(cpu: CpuState) -> str:
    parts = [f"governor {cpu.governor}"] if cpu.governor else []
    if cpu.frequencies_khz:
        parts.append(f"{min(cpu.frequencies_khz) / 1e6:.2f} to {max(cpu.frequencies_khz) / 1e6:.2f} GHz")
    if cpu.temperature_celsius is not None:
        parts.append(f"{cpu.temperature_celsius:.0f} °C")
    return ", ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
