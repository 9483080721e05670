"""Examines the machine: Python, libraries and tools, without importing any library."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_BUILD = "`build` and `validate` do not work"
_RUNNERS = "native runners cannot be built; `build`, and `validate` without --on, work"
_EMULATOR = "`validate --on emulator` does not work"
_ADB = "`--on adb`, on an Android device, does not work"
_SSH = "`--on ssh:USER@HOST`, on a board, does not work"
_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        found: The version or amount that is there; "-" for nothing.
        needed: What must be there.
        essential: Whether `edgecompile build` needs it.
        note: What does not work without it.
    """

    name: str
    found: str
    needed: str
    ok: bool
    essential: bool
    note: str


def examine() -> tuple[Check, ...]:
    """Look at everything; the essential things come first."""
    try:
        metadata = importlib.metadata.metadata("edgecompile")
    except importlib.metadata.PackageNotFoundError:
        needs_python, requirements = ">=3.11", []
    else:
        needs_python = metadata["Requires-Python"]
        requirements = [item for item in metadata.get_all("Requires-Dist") or [] if "extra ==" not in item]
    python = platform.python_version()
    return (
        _essential("python", python, needs_python),
        *(_library(requirement) for requirement in requirements),
        _compiler(),
        _tool("cmake", ">=3.28", _RUNNERS),
        _tool("aarch64-linux-gnu-g++", "", _EMULATOR),
        _tool("qemu-aarch64", "", _EMULATOR),
        _tool("adb", "", _ADB),
        _tool("ssh", "", _SSH, "-V"),
        _disk(),
    )


def satisfies(version: str, specifiers: str) -> bool:
    """Return whether a version meets all of `>=1.2,<2`; a build's suffix ("+cpu") does not count.

    Only the operators that our own pyproject.toml uses, so that this works where nothing is installed.
    """
    found = _numbers(version)
    for operator, bound in re.findall(r"(>=|<|==)\s*([\d.]+)", specifiers):
        wanted = _numbers(bound)
        holds = {">=": found >= wanted, "<": found < wanted, "==": found == wanted}[operator]
        if not holds:
            return False
    return True


def _numbers(version: str) -> tuple[int, int, int]:
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
    major, minor, patch = match.groups(default="0") if match else ("0", "0", "0")
    return int(major), int(minor), int(patch)


def _essential(name: str, found: str, needed: str) -> Check:
    present = found != "-" and satisfies(found, needed)
    return Check(name=name, found=found, needed=needed, ok=present, essential=True, note=_BUILD)


def _library(requirement: str) -> Check:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None  # metadata is written by the build backend
    try:
        found = importlib.metadata.version(match[0])
    except importlib.metadata.PackageNotFoundError:
        found = "-"
    return _essential(match[0], found, requirement[match.end() :].strip())


def _compiler() -> Check:
    candidates = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    name = next((candidate for candidate in candidates if candidate and shutil.which(candidate)), "")
    found = _version_line(name) if name else "-"
    return Check(
        name="C++ compiler", found=found, needed="C++17", ok=bool(name), essential=False, note=_RUNNERS
    )


def _tool(name: str, needed: str, note: str, version_option: str = "--version") -> Check:
    # pip puts cmake beside the interpreter, which need not be on the PATH.
    beside = Path(sys.executable).with_name(name)
    tool = str(beside) if beside.exists() else shutil.which(name)
    line = _version_line(tool, version_option) if tool else "-"
    version = re.search(r"\d+(\.\d+)+", line)
    found = version[0] if version else line
    present = version is not None and satisfies(found, needed)
    return Check(name=name, found=found, needed=needed, ok=present, essential=False, note=note)


def _version_line(tool: str, option: str = "--version") -> str:
    """Return the first line that `tool --version` prints, or "-" if it does not run."""
    try:
        result = subprocess.run([tool, option], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "-"
    return next(iter((result.stdout or result.stderr).splitlines()), "-")


def _disk() -> Check:
    free_bytes = shutil.disk_usage(Path.cwd()).free
    return Check(
        name="free disk",
        found=f"{free_bytes / 2**30:.1f} GiB",
        needed=f">={_DISK_BYTES / 2**30:.0f} GiB",
        ok=free_bytes >= _DISK_BYTES,
        essential=False,
        note="large models may not fit while they are built",
    )
