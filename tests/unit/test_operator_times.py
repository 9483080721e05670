"""Operator times and instruction counts, read from what engines and the emulator write."""

from __future__ import annotations

import json
import struct

import pytest

from edgecompile.errors import RunnerFailedError
from edgecompile.instruction_count import read_counts
from edgecompile.operator_times import (
    OperatorCall,
    Trace,
    TracedRun,
    chrome_trace,
    is_traced,
    read_trace,
)


def _run(begin: float, *durations: float) -> TracedRun:
    calls = tuple(
        OperatorCall(name=f"conv #{index}", kind="conv", start_us=begin + index, duration_us=duration)
        for index, duration in enumerate(durations)
    )
    return TracedRun(start_us=begin, duration_us=10_000, calls=calls)


TRACE = Trace(runs=(_run(100, 9e3, 9e3), _run(20_000, 1e3, 5e3), _run(40_000, 3e3, 5e3)), warm_up=1)


def test_times_are_medians_of_the_timed_runs_the_slowest_first():
    first, second = TRACE.operators()
    assert (first.name, first.milliseconds, first.share, first.calls) == ("conv #1", 5, 0.5, 1)
    assert (second.name, second.milliseconds, second.share) == ("conv #0", 2, 0.2)
    (kind,) = TRACE.kinds()
    assert (kind.name, kind.milliseconds, kind.calls) == ("conv", 7, 2)


def test_a_chrome_trace_begins_at_zero_and_has_a_process_for_each_artifact():
    document = chrome_trace({"a.pte": TRACE, "b.pte": TRACE})
    events = document["traceEvents"]
    assert {event["pid"] for event in events} == {1, 2}
    assert min(event["ts"] for event in events if event["ph"] == "X") == 0
    names = [event["name"] for event in events if event.get("cat") == "inference"]
    assert names == ["warm-up", "iteration 0", "iteration 1"] * 2


def test_onnxruntime_profile():
    def event(category: str, name: str, ts: int, dur: int, **args: str) -> dict[str, object]:
        return {
            "cat": category,
            "name": name,
            "ph": "X",
            "pid": 1,
            "tid": 1,
            "ts": ts,
            "dur": dur,
            "args": args,
        }

    events = [
        event("Session", "session_initialization", 0, 9),
        event("Node", "conv_kernel_time", 11, 5, op_name="QLinearConv"),
        event("Session", "model_run", 10, 8),
        event("Node", "conv_kernel_time", 21, 6, op_name="QLinearConv"),
        event("Session", "model_run", 20, 8),
    ]
    trace = read_trace("onnxruntime", json.dumps(events).encode(), warm_up=1, where="x")
    assert [run.duration_us for run in trace.runs] == [8, 8]
    assert trace.operators()[0].name == "conv"
    assert trace.kinds()[0].name == "QLinearConv"
    assert trace.kinds()[0].milliseconds == 0.006


@pytest.mark.parametrize("engine", ["executorch", "onnxruntime"])
@pytest.mark.parametrize(
    "data", [b"", b"[", b"{}", b"\0" * 64, struct.pack("<II4sI", 12, 0x7FFFFFFF, b"ED00", 1)]
)
def test_a_damaged_trace_is_a_clear_error(engine, data):
    with pytest.raises(RunnerFailedError, match="trace"):
        read_trace(engine, data, warm_up=1, where="x")


def test_torchscript_lite_is_not_traced():
    assert not is_traced("torchscript-lite")


def test_counts_lie_between_marks():
    text = "1 0 100\n2 0 350\n3 0 400\n4 0 500\n4 1 610\n4 2 711\n5 0 813\n"
    found = read_counts(text, "x")
    assert found.load == 250
    assert found.iterations == (110, 101, 102)
    assert found.per_inference == 102


@pytest.mark.parametrize("text", ["", "1 0 100\n2 0 200\n", "4 0 1\n4 1 2\n", "nonsense"])
def test_incomplete_counts_are_an_error(text):
    with pytest.raises(RunnerFailedError, match="did not count"):
        read_counts(text, "x")
