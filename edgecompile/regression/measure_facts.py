"""Measures what no file of a bundle says: executed instructions, memory, and times beside another bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgecompile.bench import Ratio, bench
from edgecompile.bench_instructions import bench_instructions
from edgecompile.connect import connect, counting_emulator
from edgecompile.contender import EngineOptions, find_contenders
from edgecompile.errors import EngineLibrariesMissingError
from edgecompile.progress import Progress
from edgecompile.regression.facts import BuildFacts, EmulatedCore, InstructionFacts

_ROUNDS, _SECONDS = 3, 0.05
_LATENCY_ROUNDS, _LATENCY_SECONDS = 15, 0.2


def with_instructions(
    path: Path, build: BuildFacts, core: EmulatedCore, progress: Progress
) -> tuple[BuildFacts, tuple[str, ...]]:
    """Return the facts with what an emulated core executes, and which artifacts cannot run there.

    Raises:
        ToolMissingError: There is no emulator, or it cannot count.
        RunnerFailedError: An artifact fails there.
    """
    with counting_emulator(device=core.device, cpu=core.cpu) as emulator:
        try:
            contenders, notes = find_contenders([path], (), emulator, progress)
        except EngineLibrariesMissingError as error:
            return build, (f"no instructions are counted: {error.message}",)
        found = bench_instructions(contenders, emulator, repeats=1, progress=progress)
    counts = {
        row.contender.artifact.format: InstructionFacts(load=row.load, per_inference=row.per_inference)
        for row in found.counted
    }
    artifacts = {name: replace(item, instructions=counts.get(name)) for name, item in build.artifacts.items()}
    return replace(build, core=core, artifacts=artifacts), notes


def with_memory(path: Path, build: BuildFacts, progress: Progress) -> tuple[BuildFacts, tuple[str, ...]]:
    """Return the facts with how much each artifact's process grows on this host, and which cannot run here.

    Raises:
        RunnerFailedError: An artifact fails.
    """
    with connect("host") as host:
        contenders, notes = find_contenders([path], (), host, progress)
        found = bench(contenders, host, EngineOptions(), rounds=_ROUNDS, seconds=_SECONDS, progress=progress)
    memory = {row.artifact.format: timing.model_memory_bytes for row, timing in found.timings}
    artifacts = {name: replace(item, memory_bytes=memory.get(name)) for name, item in build.artifacts.items()}
    return replace(build, artifacts=artifacts), notes


def latency_ratios(path: Path, against: Path, formats: list[str], progress: Progress) -> dict[str, Ratio]:
    """Return the time of each artifact by that of another bundle's, measured in turns on this host.

    Args:
        path: The bundle.
        against: The other one.
        formats: Those that both have.
        progress: Is told of each run.

    Raises:
        EngineLibrariesMissingError: An artifact cannot run on this host.
        RunnerFailedError: An artifact fails.
    """
    ratios = {}
    with connect("host") as host:
        for name in formats:
            contenders, _ = find_contenders([against, path], [name], host, progress)
            found = bench(
                contenders,
                host,
                EngineOptions(),
                rounds=_LATENCY_ROUNDS,
                seconds=_LATENCY_SECONDS,
                progress=progress,
            )
            ratios[name] = found.timings[1][1].ratio
    return ratios
