"""The runners that are built for this machine compute what the engines compute in Python, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgecompile.artifact_run import over_connection
from edgecompile.connections.host import Host
from edgecompile.engines.onnxruntime import Onnxruntime
from edgecompile.measurement import Measurement
from edgecompile.run_artifact import run_artifact

pytestmark = pytest.mark.usefixtures("host_tools")

NAMES = [f"{precision}.{suffix}" for precision in ("int8", "fp32") for suffix in ("pte", "ptl", "onnx")]


def _run(item, **options) -> Measurement:
    with Host() as host:
        return run_artifact(item.path, item.sha256, item.samples, host, engine=item.engine, **options)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_python_bit_for_bit(made, name):
    item = made[name]
    expected = item.outputs()
    found = _run(item, expected=expected, warmup=2, iterations=5)
    for got, wanted in zip(found.outputs, expected, strict=True):
        assert all(map(torch.equal, got, wanted))
    assert found.goldens_passed
    assert [golden.equal_share for golden in found.report.goldens] == [1.0] * 3


def test_precise_sums_in_onnx_runtime(made):
    item = made["int8.onnx"]
    found = _run(item, precise=True, iterations=0)
    for got, wanted in zip(found.outputs, item.outputs(precise=True), strict=True):
        assert all(map(torch.equal, got, wanted))
    assert found.report.latency_ms is None


def test_precise_sums_where_layers_share_a_weight(made):
    item = made["tied.onnx"]
    data = item.path.read_bytes()
    assert Onnxruntime.precise_form(data) != data
    with Host() as host:
        run = over_connection("onnx", item.engine, data, connection=host, precise=True)
        found = list(run.run(item.samples))
    for got, wanted in zip(found, item.outputs(precise=True), strict=True):
        assert all(map(torch.equal, got, wanted))
    assert run.name == "onnx on host"


@pytest.mark.parametrize("name", ["int8.pte", "int8.ptl", "int8.onnx"])
def test_the_report(made, name):
    item = made[name]
    report = _run(item, iterations=20, threads=2, cpus=[0]).report
    assert (report.engine, report.error) == (item.engine, None)
    assert report.engine_version[0].isdigit()
    assert (report.threads, report.cpus, report.warmup, report.iterations) == (2, (0,), 1, 20)
    times = report.latency_ms
    assert len(report.latencies_ms) == 20
    assert 0 < times.min <= times.p50 <= times.p90 <= times.p99 <= max(report.latencies_ms)
    assert times.min <= times.mean
    assert times.stddev > 0
    assert report.load_ms > 0
    assert report.first_inference_ms > 0
    memory = report.memory_bytes
    assert 0 < memory.before_load.peak < memory.after_load.peak <= memory.after_run.peak
    assert [(output.dtype, output.shape) for output in report.outputs] == [("float32", (1, 10))]
    assert all(entry.shape == (1, 3, 16, 16) for entry in report.inputs)


def test_goldens_that_differ_are_named_and_not_an_error(made):
    item = made["fp32.pte"]
    expected = item.outputs()
    wrong = [expected[0], (expected[1][0] + 0.5,), (expected[2][0] * float("nan"),)]
    report = _run(item, expected=wrong, tolerance=0.25, iterations=0).report
    assert [golden.passed for golden in report.goldens] == [True, False, False]
    assert report.goldens[1].max_abs_error == pytest.approx(0.5)
    assert report.goldens[2].max_abs_error is None
    assert report.error.code == "golden-mismatch"
    assert not _run(item, expected=wrong, min_sqnr_db=60, iterations=0).goldens_passed


def test_operators_of_executorch(made, tmp_path: Path):
    from executorch.devtools import Inspector

    trace = tmp_path / "trace.etdp"
    _run(made["int8.pte"], trace=trace, iterations=3)
    events = [
        event.name for block in Inspector(etdump_path=str(trace)).event_blocks for event in block.events
    ]
    assert any("Convolution" in name for name in events)


def test_operators_of_onnx_runtime(made, tmp_path: Path):
    trace = tmp_path / "trace.json"
    _run(made["int8.onnx"], trace=trace, iterations=3)
    operators = {event.get("args", {}).get("op_name") for event in json.loads(trace.read_text())}
    assert "QLinearConv" in operators
