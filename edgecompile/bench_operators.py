"""`edgecompile bench --per-op`: which operators an artifact's time goes to."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.connection import Connection
from edgecompile.contender import Contender, EngineOptions
from edgecompile.operator_times import OperatorTime, Trace, is_traced, read_trace
from edgecompile.progress import Progress
from edgecompile.text_table import render, table

_WARM_UP = 2
_ITERATIONS = 20
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class OperatorBench:
    """The traces of the contenders whose engine writes one.

    Attributes:
        traces: By the contender's label.
        notes: What has no trace, and why.
    """

    traces: dict[str, Trace]
    notes: tuple[str, ...]

    def text(self) -> str:
        """Return two tables for each artifact: by kind, and the slowest operators one by one."""
        parts = []
        for label, trace in self.traces.items():
            parts += [f"{label}: time by kind of operator\n", _table(trace.kinds())]
            parts += [f"{label}: the slowest operators\n", _table(trace.operators())]
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return all operators as JSON's types, by label."""
        return {
            label: {
                "kinds": [dataclasses.asdict(row) for row in trace.kinds()],
                "operators": [dataclasses.asdict(row) for row in trace.operators()],
            }
            for label, trace in self.traces.items()
        }


def bench_operators(
    contenders: Sequence[Contender],
    connection: Connection,
    options: EngineOptions,
    progress: Progress,
) -> OperatorBench:
    """Trace each contender once; the tracing itself takes time, so these are shares, not latencies.

    Raises:
        RunnerFailedError: A trace cannot be read.
    """
    traces, notes = {}, []
    progress.start("trace operators", total=len(contenders))
    with tempfile.TemporaryDirectory() as folder:
        for contender in contenders:
            engine = contender.artifact.engine
            if not is_traced(engine):
                notes.append(f"{contender.label}: {engine} does not tell the time of its operators")
            else:
                file = Path(folder) / "trace"
                contender.run(connection, options, warmup=_WARM_UP, iterations=_ITERATIONS, trace=file)
                # The runner's very first run, for the outputs, is traced too.
                traces[contender.label] = read_trace(
                    engine, file.read_bytes(), warm_up=1 + _WARM_UP, where=contender.label
                )
            progress.advance()
    progress.finish()
    return OperatorBench(traces=traces, notes=tuple(notes))


def _table(times: Sequence[OperatorTime]) -> str:
    rows = table("operator", "calls", "ms", "share")
    for row in times[:_SHOWN]:
        rows.add_row(row.name, str(row.calls), f"{row.milliseconds:.3f}", f"{row.share:.1%}")
    rest = times[_SHOWN:]
    if rest:
        rows.add_row(
            f"{len(rest)} others",
            str(sum(row.calls for row in rest)),
            f"{sum(row.milliseconds for row in rest):.3f}",
            f"{sum(row.share for row in rest):.1%}",
        )
    return render(rows)
