"""Where an inference's time goes, operator by operator, from an engine's own trace."""

from __future__ import annotations

import importlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.errors import RunnerFailedError

# The reader of each engine's trace.
_READERS = {  # the modules that hold its `read_runs`
    "executorch": "edgecompile.readers.etdump",
    "onnxruntime": "edgecompile.readers.onnxruntime_profile",
}


@dataclass(frozen=True, kw_only=True)
class OperatorCall:
    """One execution of one operator.

    Attributes:
        name: Of the operator in the model, one and the same in each run.
        kind: What operators of its sort share: the kernel, or the operator's type.
        start_us: In microseconds of the trace's own clock.
    """

    name: str
    kind: str
    start_us: float
    duration_us: float


@dataclass(frozen=True, kw_only=True)
class TracedRun:
    """One inference; what lies between its operators is the engine's own work."""

    start_us: float
    duration_us: float
    calls: tuple[OperatorCall, ...]


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """The time of one operator, or of all operators of one kind, in an inference.

    Attributes:
        calls: In one inference.
        milliseconds: The median over the timed iterations.
        share: Of the inference, 0 to 1.
    """

    name: str
    calls: int
    milliseconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The runs of one process, in order.

    Attributes:
        warm_up: How many of the first runs are not timed iterations.
    """

    runs: tuple[TracedRun, ...]
    warm_up: int

    def operators(self) -> tuple[OperatorTime, ...]:
        """Return each operator of the model, the slowest first."""
        return self._times(lambda call: call.name)

    def kinds(self) -> tuple[OperatorTime, ...]:
        """Return each kind of operator, the slowest first."""
        return self._times(lambda call: call.kind)

    def _times(self, name_of: Callable[[OperatorCall], str]) -> tuple[OperatorTime, ...]:
        runs = self.runs[self.warm_up :]
        inference_us = statistics.median(run.duration_us for run in runs)
        spent_us: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(runs))
        for index, run in enumerate(runs):
            for call in run.calls:
                spent_us[name_of(call)][index] += call.duration_us
        calls = Counter(name_of(call) for call in runs[0].calls)
        medians = {name: statistics.median(times) for name, times in spent_us.items()}
        return tuple(
            OperatorTime(
                name=name,
                calls=calls[name],
                milliseconds=medians[name] / 1000,
                share=medians[name] / inference_us if inference_us else 0.0,
            )
            for name in sorted(medians, key=lambda name: -medians[name])
        )


def is_traced(engine: str) -> bool:
    """Return whether an engine tells the time of each operator."""
    return engine in _READERS


def read_trace(engine: str, data: bytes, *, warm_up: int, where: str) -> Trace:
    """Read what a runner of `engine` wrote.

    Raises:
        RunnerFailedError: It is damaged, or has no timed iteration.
    """
    try:
        runs: tuple[TracedRun, ...] = importlib.import_module(_READERS[engine]).read_runs(data)
    except ValueError as error:
        raise RunnerFailedError(f"the trace cannot be read: {error}", where=where) from error
    if len(runs) <= warm_up:
        raise RunnerFailedError(
            "the trace lacks the timed iterations", where=where, found=f"{len(runs)} runs"
        )
    return Trace(runs=runs, warm_up=warm_up)


def chrome_trace(traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Return one document in Chrome's trace event format, with a process for each trace.

    https://ui.perfetto.dev and chrome://tracing open it.
    """
    events: list[dict[str, Any]] = []
    for process, (label, trace) in enumerate(traces.items(), start=1):
        common = {"pid": process, "tid": 1}
        events.append({"ph": "M", "name": "process_name", "args": {"name": label}, **common})
        begin = trace.runs[0].start_us
        for index, run in enumerate(trace.runs):
            name = "warm-up" if index < trace.warm_up else f"iteration {index - trace.warm_up}"
            events.append(_span(name, "inference", run.start_us - begin, run.duration_us, common))
            events.extend(
                _span(call.name, call.kind, call.start_us - begin, call.duration_us, common)
                for call in run.calls
            )
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _span(
    name: str, category: str, start_us: float, duration_us: float, common: Mapping[str, int]
) -> dict[str, Any]:
    times = {"ts": round(start_us, 3), "dur": round(duration_us, 3)}
    return {"ph": "X", "name": name, "cat": category, **times, **common}
