"""Builds and runs C++ projects, here or cross-compiled for arm64 under the emulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecompile import shipped
from edgecompile.connection import Connection
from edgecompile.connections.emulator import Emulator
from edgecompile.connections.host import Host
from edgecompile.engine_libraries import Platform, engine_libraries
from edgecompile.errors import ToolMissingError
from edgecompile.process import Completed
from edgecompile.progress import QuietProgress
from edgecompile.toolchain import find_toolchain, run_tool

ENGINES = {"onnx": "onnxruntime", "pte": "executorch"}


@dataclass(frozen=True, kw_only=True)
class Program:
    """A project that is built.

    Attributes:
        libraries: What it loads at run time.
    """

    name: str
    project: Path
    build: Path
    platform: Platform
    libraries: dict[str, Path]

    def run(self, program: str, *arguments: object) -> Completed:
        """Run one of its programs with its libraries beside it."""
        connection: Connection = Emulator() if self.platform == "linux-arm64" else Host()
        file = f"{self.name}_{program}"
        with connection:
            connection.push({file: self.build / file, **self.libraries})
            return connection.run([file, *map(str, arguments)], timeout_seconds=120)

    def self_test(self, folder: Path, assets: Path | None = None) -> tuple[Completed, np.ndarray]:
        """Run the self-test, and return its outputs as float32 as well, one row a golden."""
        folder.mkdir()
        done = self.run("self_test", assets or self.project / "assets", folder)
        rows = [np.fromfile(path, "<f4") for path in sorted(folder.iterdir())]
        return done, np.stack(rows) if rows else np.empty(0, np.float32)


def built(project: Path, name: str, format_name: str, platform: Platform, *definitions: str) -> Program:
    """Build a project; skips where there are no tools for the platform."""
    try:
        toolchain = find_toolchain(platform)
        if platform == "linux-arm64":
            Emulator().close()
    except ToolMissingError as error:
        pytest.skip(f"{error.message} ({error.lines.get('hint')})")
    libraries = engine_libraries(ENGINES[format_name], platform, QuietProgress())
    build = project.parent / f"{project.name}-build-{platform}{''.join(definitions)}"
    configure = [toolchain.cmake, "-S", str(project), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-D{name.upper()}_ENGINE_ROOT={libraries.root}", "-DCMAKE_CXX_FLAGS=-Werror", *definitions]
    if platform == "linux-arm64":
        configure += ["--toolchain", str(shipped.runners_folder() / "toolchains/linux-arm64.cmake")]
    for command in (configure, [toolchain.cmake, "--build", str(build), "--parallel", "2"]):
        run_tool(command, "a project", timeout_seconds=300, environment=toolchain.environment)
    return Program(name=name, project=project, build=build, platform=platform, libraries=libraries.libraries)


def as_ppm(pictures: list[Path], folder: Path) -> list[Path]:
    """Return pictures as binary PPM, which the program `classify` reads."""
    paths = [folder / f"{path.stem}.ppm" for path in pictures]
    for path, ppm in zip(pictures, paths, strict=True):
        Image.open(path).convert("RGB").save(ppm)
    return paths
