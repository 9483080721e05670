"""Builds the native runners with CMake and keeps them in the user's cache."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgecompile import shipped
from edgecompile.cache import kept, key
from edgecompile.engine_libraries import EngineLibraries, Platform, engine_libraries
from edgecompile.progress import Progress
from edgecompile.self_contained import copy_system_files, loader_command
from edgecompile.toolchain import Toolchain, find_toolchain, run_tool

_BUILD_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class RunnerFiles:
    """A runner that is built.

    Attributes:
        files: What must lie in one folder where it runs: name there -> file here.
        command: How it is started in that folder; its options follow.
    """

    files: dict[str, Path]
    command: tuple[str, ...]


def built_runner(
    engine: str, platform: Platform, progress: Progress, *, self_contained: bool = False
) -> RunnerFiles:
    """Return the runner of an engine, building it on first use.

    Args:
        engine: What executes artifacts.
        platform: Where it will run.
        progress: Is told of what takes long.
        self_contained: Add the dynamic loader and all system libraries, for a place that may have none.

    Raises:
        ToolMissingError: A tool, or the engine's Python package, is not installed.
        EngineLibrariesMissingError: The engine's libraries for the platform cannot be had.
        RunnerBuildError: The build fails.
    """
    toolchain = find_toolchain(platform)
    libraries = engine_libraries(engine, platform, progress)
    name = f"edgecompile-run-{engine}"
    # The libraries' place counts too: a runner's folder links to them.
    made_from = key(_sources(), platform, libraries.version, str(libraries.root), toolchain.compiler)

    def make(folder: Path) -> None:
        progress.start(f"build the {engine} runner for {platform}")
        with tempfile.TemporaryDirectory() as build:
            _build(engine, platform, libraries, toolchain, Path(build))
            shutil.copy2(Path(build) / name, folder / name)
        for alias, file in libraries.libraries.items():
            (folder / alias).symlink_to(file)
        progress.finish()

    place = f"runners/{engine}-{platform}-{made_from}"
    folder = kept(place, make)
    own = {alias: folder / alias for alias in sorted(libraries.libraries)}
    if not self_contained:
        return RunnerFiles(files={name: folder / name, **own}, command=(name,))
    system = kept(
        f"{place}-system",
        lambda aside: copy_system_files(folder / name, own, toolchain, aside),
    )
    names = sorted(file.name for file in system.iterdir())
    return RunnerFiles(
        files={name: folder / name, **own, **{file: system / file for file in names}},
        command=loader_command(names, name),
    )


def _sources() -> bytes:
    """Return the names and contents of all that CMake reads, but not of a user's own builds there."""
    root = shipped.runners_folder()
    files = sorted(path for path in root.rglob("*") if path.is_file())
    relative = [(path.relative_to(root), path) for path in files]
    return b"".join(
        str(name).encode() + b"\0" + path.read_bytes() for name, path in relative if name.parts[0] != "build"
    )


def _build(
    engine: str, platform: Platform, libraries: EngineLibraries, toolchain: Toolchain, build: Path
) -> None:
    definitions = {
        "EDGECOMPILE_ENGINE": engine,
        "EDGECOMPILE_ENGINE_ROOT": libraries.root,
        "EDGECOMPILE_ENGINE_VERSION": libraries.version,
    }
    configure = [toolchain.cmake, "-S", ".", "-B", str(build), "--preset", platform]
    _run([*configure, *(f"-D{name}={value}" for name, value in definitions.items())], toolchain)
    _run([toolchain.cmake, "--build", str(build), "--parallel", str(os.cpu_count() or 1)], toolchain)


def _run(command: list[str], toolchain: Toolchain) -> None:
    run_tool(
        command,
        "a runner cannot be built",
        timeout_seconds=_BUILD_SECONDS,
        folder=shipped.runners_folder(),
        environment=toolchain.environment,
    )
