"""Whole commands of `edgecompile build`, in three formats: a part of compile_time.py."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COMMANDS = {
    "one target, cold": ("--target", "android-arm64"),
    "one target, nothing changed": ("--target", "android-arm64"),
    "all five targets, cold": ("--all-targets",),
    "all five targets, nothing changed": ("--all-targets",),
}


def run_command(model: str, data: str, options: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Run `edgecompile build`; return CPU and wall seconds, and the peak memory of its process in MB."""
    command = [sys.executable, "-m", "edgecompile.cli.main", "build", model, "--calibration", data]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EDGECOMPILE_CACHE": str(folder / "cache")}
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, *options, "--output", str(folder / "bundles")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{model}: a build failed with {child.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / 1024


def command_rows(name: str, model: str, data: str, repeats: int) -> list[str]:
    """Return the rows of whole commands, in three formats, run in turn on caches of their own."""
    runs: dict[str, list[tuple[float, float, float]]] = {command: [] for command in COMMANDS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as several:
            for command, options in COMMANDS.items():
                print(f"{name}: {command}", file=sys.stderr, flush=True)
                folder = Path(several if "--all-targets" in options else one)
                runs[command].append(run_command(model, data, options, folder))
    medians = {
        command: [statistics.median(run[index] for run in own) for index in range(3)]
        for command, own in runs.items()
    }
    base = medians["one target, cold"]
    found = []
    for command, (cpu, wall, peak) in medians.items():
        ratios = f"{cpu / base[0]:.2f} | {wall / base[1]:.2f}"
        found.append(f"| {name} | {command} | {cpu:.2f} | {wall:.2f} | {ratios} | {peak:.0f} |")
    return found
