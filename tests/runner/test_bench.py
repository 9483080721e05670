"""`edgecompile bench`: times in turns, operators, and instructions on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from edgecompile.cli.main import main
from edgecompile.progress import QuietProgress
from edgecompile.runner_build import built_runner

QUICK = ("--rounds", "2", "--seconds", "0.02")


def _document(capsys, *arguments: object) -> dict[str, object]:
    capsys.readouterr()
    assert main(["bench", "--json", *map(str, arguments)]) == 0
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def _error(capsys, status: int, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["bench", *map(str, arguments)]) == status
    return capsys.readouterr().err


def test_every_format_is_timed_against_the_first(bundle, host_tools, capsys):
    document = _document(capsys, bundle, *QUICK)
    rows = document["artifacts"]
    assert [row["artifact"] for row in rows] == ["small.pte", "small.ptl", "small.onnx"]
    assert rows[0]["ratio"] == {"median": 1, "low": 1, "high": 1}
    for row in rows:
        assert row["iterations"] >= 2
        assert 0 < row["latency_ms"]["min"] <= row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["load_ms"] > 0
        assert row["model_memory_bytes"] > 0
    assert (document["connection"], document["threads"], document["rounds"]) == ("host", 1, 2)


def test_one_bundle_twice_has_two_rows(bundle, host_tools, capsys):
    document = _document(capsys, bundle, bundle, "--format", "pte", *QUICK)
    assert [row["artifact"] for row in document["artifacts"]] == ["small.pte", "small.pte (2)"]


def test_the_table_names_what_is_measured(bundle, host_tools, capsys):
    assert main(["bench", str(bundle), "--format", "pte", "--threads", "2", *QUICK]) == 0
    out = capsys.readouterr().out
    assert out.startswith("host, 2 threads, 2 rounds\n")
    assert "small.pte" in out
    assert "int8" in out


def test_operators_sum_up_to_the_inference(bundle, host_tools, capsys, tmp_path):
    trace = tmp_path / "trace.json"
    document = _document(capsys, bundle, "--per-op", "--trace", trace, *QUICK)
    assert [note.split(":")[0] for note in document["notes"]] == ["small.ptl"]
    for label, kernel in (("small.pte", "Convolution"), ("small.onnx", "QLinearConv")):
        operators = document["operators"][label]
        assert any(kernel in row["name"] for row in operators["kinds"])
        for rows in operators.values():
            assert all(0 <= row["share"] < 1 for row in rows)
            times = [row["milliseconds"] for row in rows]
            assert times == sorted(times, reverse=True)
        assert len(operators["operators"]) >= len(operators["kinds"])
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {"small.pte", "small.onnx"}
    for process in (1, 2):
        spans = [event for event in events if event["ph"] == "X" and event["pid"] == process]
        (*_, run) = [event for event in spans if event["cat"] == "inference"]
        inside = [event for event in spans if event["cat"] != "inference" and event["ts"] >= run["ts"]]
        assert inside
        assert all(event["ts"] + event["dur"] <= run["ts"] + run["dur"] + 1 for event in inside)
    runs = [event["name"] for event in events if event.get("cat") == "inference" and event["pid"] == 1]
    assert runs == ["warm-up"] * 3 + [f"iteration {index}" for index in range(20)]


def test_instructions_are_the_same_in_every_process(bundle, emulator, capsys):
    counts = {}
    for cpu in ("cortex-a53", "cortex-a76"):
        document = _document(
            capsys, bundle, "--on", "emulator", "--instructions", "--cpu", cpu, "--rounds", 2
        )
        assert [row["format"] for row in document["artifacts"]] == ["pte", "onnx"]
        for row in document["artifacts"]:
            found = row["instructions"]
            assert found["spread"] < 0.001
            assert all(len(repeat["iterations"]) == 3 for repeat in found["repeats"])
            assert found["load"] > found["per_inference"] > 10_000
        counts[cpu] = document["artifacts"][0]["instructions"]["per_inference"]
    # The a76 has instructions for dot products, which the a53 has not.
    assert counts["cortex-a76"] < counts["cortex-a53"]


def test_a_device_is_counted_on_its_fastest_core(bundle, emulator, capsys):
    arguments = ("--on", "emulator", "--instructions", "--device", "pixel-6", "--format", "pte")
    documents = [_document(capsys, bundle, *arguments, "--rounds", 1) for _ in range(2)]
    first, second = (item["artifacts"][0]["instructions"]["per_inference"] for item in documents)
    assert first == pytest.approx(second, rel=0.001)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--instructions",), "only an emulator counts"),
        (("--on", "emulator"), "say nothing about the real core"),
        (("--on", "emulator", "--instructions", "--per-op"), "counts one thread"),
        (("--on", "emulator", "--instructions", "--threads", "2"), "counts one thread"),
        (("--on", "emulator", "--instructions", "--cpu", "a", "--device", "b"), "same thing twice"),
        (("--cpus", "0-3"), "is no list of CPU numbers"),
        (("--rounds", "0"), "--rounds"),
        (("--format", "ptx"), "error[unknown-format]"),
    ],
)
def test_what_cannot_be_measured_is_said_before_the_work(bundle, capsys, options, text):
    assert text in _error(capsys, 2, bundle, *options)


def test_what_does_not_run_there_is_an_error_where_nothing_does(bundle, emulator, capsys):
    text = _error(capsys, 5, bundle, "--on", "emulator", "--instructions", "--format", "ptl")
    assert "error[engine-libraries-missing]" in text
    assert "torchscript-lite" in text


def test_no_bundle_and_a_cpu_that_is_not_there(bundle, host_tools, capsys, tmp_path):
    assert "error[not-a-bundle]" in _error(capsys, 2, tmp_path)
    assert "affinity-failed" in _error(capsys, 6, bundle, "--cpus", 100_000, *QUICK)


def test_a_trace_that_cannot_be_written_is_an_error(bundle, host_tools, capsys, tmp_path):
    arguments = (bundle, "--format", "pte", "--per-op", "--trace", tmp_path / "no" / "trace.json", *QUICK)
    assert "error[output-not-writable]" in _error(capsys, 2, *arguments)


def test_onnxruntime_sends_no_usage_data(made, host_tools, tmp_path, monkeypatch):
    """Its official builds keep what they will send in the user's cache folder, unless they run in CI."""
    item = made["int8.onnx"]
    runner = built_runner("onnxruntime", "host", QuietProgress())  # in the cache that tests share
    load = f"onnxruntime.InferenceSession({str(item.path)!r}, providers=['CPUExecutionProvider'])"
    options = ["--model", str(item.path), "--input", f"float32:1x3x16x16:{tmp_path / 'zeros'}"]
    (tmp_path / "zeros").write_bytes(bytes(4 * 3 * 16 * 16))
    commands = {
        "plain": [sys.executable, "-c", f"import onnxruntime; {load}"],
        "ours": [sys.executable, "-c", f"import edgecompile, onnxruntime; {load}"],
        "runner": [str(runner.files["edgecompile-run-onnxruntime"]), *options],
    }
    environment = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD"):
        environment.pop(name, None)
    kept = {}
    for name, command in commands.items():
        home = tmp_path / name
        home.mkdir()
        places = {"XDG_CACHE_HOME": str(home), "HOME": str(home)}
        subprocess.run(command, env=environment | places, check=True, stdout=subprocess.DEVNULL)
        kept[name] = any(home.rglob("*onnxruntime*"))
    assert kept == {"plain": True, "ours": False, "runner": False}
