"""Counts executed instructions on the emulator, with a plugin of QEMU's that is compiled on first use.

Times on an emulator say nothing about the real core; its instruction counts are those of the real core,
and the same in every run, so that a change of one part in a thousand is seen on any machine.
"""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from edgecompile import shipped
from edgecompile.cache import kept, key
from edgecompile.errors import RunnerFailedError, ToolMissingError
from edgecompile.process import run_process
from edgecompile.toolchain import host_compiler, run_tool

_BUILD_SECONDS = 120.0

# The runner's phases, as in runners/source/system.h.
_LOAD, _ITERATION = 1, 4


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What one run of a runner executed.

    Attributes:
        load: From the file to a model that is ready to run.
        iterations: Of each timed iteration, in order; the first inferences are not among them.
    """

    load: int
    iterations: tuple[int, ...]

    @property
    def per_inference(self) -> int:
        """Return the median of the iterations."""
        return round(statistics.median(self.iterations))


def counting_plugin(qemu: str) -> Path:
    """Return the plugin's file, compiling it on first use.

    Args:
        qemu: The emulator that is to load it.

    Raises:
        ToolMissingError: The emulator takes no plugins, or there is no compiler.
        RunnerBuildError: The compiler rejects the plugin.
    """
    if "-plugin" not in run_process([qemu, "--help"], timeout_seconds=20).stdout:
        raise ToolMissingError(
            "this build of qemu-aarch64 takes no plugins, which count the instructions",
            where=qemu,
            hint="apt-get install qemu-user (the dynamic build; qemu-user-static has none)",
        )
    source = shipped.runners_folder() / "emulator" / "count_instructions.cpp"
    compiler = host_compiler()

    def make(folder: Path) -> None:
        command = [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", "-fvisibility=hidden"]
        command += ["-o", str(folder / "count_instructions.so"), str(source)]
        failure = "the plugin that counts instructions cannot be built"
        run_tool(command, failure, timeout_seconds=_BUILD_SECONDS)

    return kept(f"plugins/count-{key(source.read_bytes(), compiler)}", make) / "count_instructions.so"


def read_counts(text: str, where: str) -> Instructions:
    """Read what the plugin wrote: a line "phase index executed" for each mark, in order.

    Raises:
        RunnerFailedError: It is incomplete.
    """
    marks = [tuple(map(int, row)) for row in re.findall(r"^(\d+) (\d+) (\d+)$", text, re.MULTILINE)]
    loads, iterations = [], []
    for (phase, _, begin), (_, _, end) in itertools.pairwise(marks):
        if phase == _LOAD:
            loads.append(end - begin)
        elif phase == _ITERATION:
            iterations.append(end - begin)
    if len(loads) != 1 or not iterations:
        raise RunnerFailedError(
            "the emulator did not count the runner's instructions", where=where, found=f"{len(marks)} marks"
        )
    return Instructions(load=loads[0], iterations=tuple(iterations))
