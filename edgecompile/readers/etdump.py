"""ETDump, ExecuTorch's record of an execution: the time of each operator in each run."""

from __future__ import annotations

from edgecompile.operator_times import OperatorCall, TracedRun
from edgecompile.readers.flatbuffer import Buffer, Table, parse_schema
from edgecompile.readers.schema_files import schema_text

_IDENTIFIERS = (b"ED00",)
_PREFIX_BYTES = 4
_SCHEMA = "devtools/etdump/etdump_schema_flatcc.fbs"
_EXECUTION = "Execute"
_NATIVE = "native_call_"  # an operator outside any delegate
_NANOSECONDS = 1e-3  # in microseconds: ExecuTorch's clock on every POSIX system


def read_runs(data: bytes) -> tuple[TracedRun, ...]:
    """Return the runs in order; an operator inside a delegate bears the delegate's name for it.

    Raises:
        ValueError: It is no ETDump, or a damaged one.
    """
    # The runtime puts the buffer's size before it.
    root = Buffer(data[_PREFIX_BYTES:], parse_schema(schema_text(_SCHEMA))).root("ETDump", _IDENTIFIERS)
    return tuple(_run(run) for run in root.tables("run_data") if run.text("name") == _EXECUTION)


def _run(run: Table) -> TracedRun:
    spans, calls = [], []
    for event in run.tables("events"):
        profile = event.table("profile_event")
        if profile is None:
            continue
        start, end = profile.integer("start_time"), profile.integer("end_time")
        spans.append((start, end))
        delegated, name = profile.text("delegate_debug_id_str"), profile.text("name")
        if not delegated and not name.startswith(_NATIVE):
            continue  # a step of the runtime, around operators
        calls.append(
            OperatorCall(
                name=delegated or name.removeprefix(_NATIVE),
                kind=delegated.rpartition(" #")[0] or delegated or name.removeprefix(_NATIVE),
                start_us=start * _NANOSECONDS,
                duration_us=(end - start) * _NANOSECONDS,
            )
        )
    if not spans:
        raise ValueError("a run has no events")
    begin, end = min(start for start, _ in spans), max(end for _, end in spans)
    return TracedRun(
        start_us=begin * _NANOSECONDS, duration_us=(end - begin) * _NANOSECONDS, calls=tuple(calls)
    )
