"""The tools that build runners: found, checked, and named by package where they are missing."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.doctor import satisfies
from edgecompile.engine_libraries import Platform
from edgecompile.errors import RunnerBuildError, ToolMissingError
from edgecompile.process import run_process

CMAKE_NEEDED = ">=3.28"


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """What a build uses.

    Attributes:
        environment: Of every tool that runs: where tools are found, and the generator.
        compiler: The compiler's path and version, for the build's key.
    """

    cmake: str
    compiler: str
    environment: dict[str, str]


def find_toolchain(platform: Platform) -> Toolchain:
    """Return the tools for a platform.

    Raises:
        ToolMissingError: CMake, a compiler or a build program is missing or too old.
    """
    path = _search_path()
    compiler = _compiler(platform, path)
    environment = {**os.environ, "PATH": path, "CMAKE_GENERATOR": _generator(path), "CXX": compiler}
    version = next(iter(_version(compiler).splitlines()), "")
    return Toolchain(cmake=_cmake(path), compiler=f"{compiler} {version}", environment=environment)


def host_compiler() -> str:
    """Return the C++ compiler for this machine.

    Raises:
        ToolMissingError: There is none.
    """
    return _compiler("host", _search_path())


def run_tool(
    command: Sequence[str],
    failure: str,
    *,
    timeout_seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a tool that must succeed, and return what it printed.

    Args:
        command: The tool and its arguments.
        failure: What it means that it fails, as the error's message.
        timeout_seconds: After this it is killed.
        folder: Where it runs.
        environment: All of its environment; this process's own, if None.

    Raises:
        RunnerBuildError: It fails; the command and its last lines are told.
    """
    done = run_process(command, timeout_seconds=timeout_seconds, folder=folder, environment=environment)
    if not done.ok:
        raise RunnerBuildError(
            failure, command=" ".join(command), found=done.outcome(), log=done.last_lines(20)
        )
    return done.stdout


def _search_path() -> str:
    # pip puts cmake and ninja beside the interpreter, which need not be on the PATH.
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _cmake(path: str) -> str:
    found = []
    for folder in path.split(os.pathsep):
        cmake = shutil.which("cmake", path=folder)
        version = re.search(r"\d+(\.\d+)+", _version(cmake)) if cmake else None
        if cmake and version and satisfies(version[0], CMAKE_NEEDED):
            return cmake
        if version:
            found.append(f"{version[0]} ({cmake})")
    raise ToolMissingError(
        "CMake is too old to build a runner"
        if found
        else "CMake, which builds the runners, is not installed",
        expected=CMAKE_NEEDED,
        found=", ".join(found),
        hint=f"pip install 'cmake{CMAKE_NEEDED}'",
    )


def _compiler(platform: Platform, path: str) -> str:
    if platform == "linux-arm64":
        compiler = shutil.which("aarch64-linux-gnu-g++", path=path)
        hint = "apt-get install crossbuild-essential-arm64"
    else:
        names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
        compiler = next((found for name in names if name and (found := shutil.which(name, path=path))), None)
        hint = "apt-get install g++ (or install Xcode's command line tools)"
    if compiler is None:
        raise ToolMissingError(f"there is no C++ compiler for {platform}, to build the runners", hint=hint)
    return compiler


def _generator(path: str) -> str:
    if shutil.which("ninja", path=path):
        return "Ninja"
    if shutil.which("make", path=path):
        return "Unix Makefiles"
    raise ToolMissingError("there is neither ninja nor make, to build the runners", hint="pip install ninja")


def _version(tool: str) -> str:
    return _version_of(tool, Path(tool).stat().st_mtime_ns)


@functools.cache  # pip's cmake takes a third of a second for it, and a runner is asked for often
def _version_of(tool: str, modified_ns: int) -> str:
    try:
        return run_process([tool, "--version"], timeout_seconds=20).stdout
    except OSError:
        return ""
