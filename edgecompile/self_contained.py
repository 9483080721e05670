"""What a runner needs where nothing can be taken from the system: the loader and every library it names.

Linux starts a program through the loader that the program names by an absolute path, and a phone has none
there. So the loader is started itself, and told where the libraries are:
`./ld-linux-aarch64.so.1 --library-path . ./program`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgecompile.errors import RunnerBuildError, ToolMissingError
from edgecompile.toolchain import Toolchain, run_tool

_SECONDS = 60.0


def copy_system_files(
    program: Path, libraries: Mapping[str, Path], toolchain: Toolchain, folder: Path
) -> None:
    """Copy the loader and the libraries that a program and its own libraries take from the system.

    Args:
        program: The program's file.
        libraries: Those that lie beside it, by the name that they are loaded by.
        toolchain: What linked it, and so knows where the system's libraries are.
        folder: Where to.

    Raises:
        ToolMissingError: The toolchain has no readelf.
        RunnerBuildError: The program is no dynamic ELF file, or a library cannot be found.
    """
    readelf = _readelf(toolchain)
    interpreter = re.search(
        r"program interpreter: (\S+)\]", _run([readelf, "-W", "-l", str(program)], toolchain)
    )
    if interpreter is None:
        raise RunnerBuildError("the runner names no dynamic loader", where=str(program))
    loader = Path(interpreter[1]).name
    found = {loader: _system_file(loader, program.name, toolchain)}
    waiting = [program, *libraries.values(), found[loader]]
    while waiting:
        file = waiting.pop()
        for name in re.findall(r"\(NEEDED\).*\[(.+)\]", _run([readelf, "-W", "-d", str(file)], toolchain)):
            if name not in found and name not in libraries:
                found[name] = _system_file(name, file.name, toolchain)
                waiting.append(found[name])
    for name, file in found.items():
        shutil.copy2(file, folder / name)


def loader_command(names: Iterable[str], program: str) -> tuple[str, ...]:
    """Return how a program is started by the loader that is one of the files beside it."""
    loader = next(name for name in names if name.startswith("ld"))  # ld-linux-*, ld64.so.*
    return (f"./{loader}", "--library-path", ".", f"./{program}")


def _readelf(toolchain: Toolchain) -> str:
    compiler, path = toolchain.environment["CXX"], toolchain.environment["PATH"]
    name = _run([compiler, "-print-prog-name=readelf"], toolchain).strip()
    readelf = shutil.which(name, path=path)
    if readelf is None:
        raise ToolMissingError(
            "there is no readelf, to find what a runner needs on a device", hint="apt-get install binutils"
        )
    return readelf


def _system_file(name: str, needed_by: str, toolchain: Toolchain) -> Path:
    compiler = toolchain.environment["CXX"]
    file = Path(_run([compiler, f"-print-file-name={name}"], toolchain).strip())
    if not file.is_absolute():  # a compiler that finds nothing prints the name alone
        raise RunnerBuildError(
            f"the toolchain has no library {name!r}, which {needed_by!r} needs on a device",
            where=compiler,
            hint="install the C and C++ libraries of the toolchain again",
        )
    return file


def _run(command: list[str], toolchain: Toolchain) -> str:
    # In English, whatever the user speaks.
    return run_tool(
        command,
        "what a runner needs on a device cannot be found",
        timeout_seconds=_SECONDS,
        environment={**toolchain.environment, "LC_ALL": "C"},
    )
