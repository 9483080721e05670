"""Where an engine's native libraries are: in its Python package here, in its wheel for other platforms."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecompile.cache import kept
from edgecompile.errors import EngineLibrariesMissingError, ToolMissingError
from edgecompile.process import run_process
from edgecompile.progress import Progress

Platform = Literal["host", "linux-arm64"]

_WHEEL_PLATFORM = {"linux-arm64": "manylinux_2_28_aarch64"}
_DOWNLOAD_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class _Package:
    """A Python package that holds an engine.

    Attributes:
        name: Of the distribution and of its folder.
        libraries: What a runner needs at run time, below that folder, by the name that it is loaded by.
        build_folders: What a build needs, below that folder; a trailing slash makes them prefixes.
    """

    name: str
    libraries: dict[str, str]
    build_folders: tuple[str, ...]
    platforms: tuple[Platform, ...]


def _executorch_library(part: str) -> str:
    return f"libexecutorch{part}.so"


_PACKAGES = {
    "executorch": _Package(
        name="executorch",
        libraries={
            _executorch_library(part): "lib/" + _executorch_library(part)
            for part in (
                "",
                "_backend_xnnpack",
                "_etdump",
                "_kernels_optimized",
                "_kernels_quantized",
                "_threadpool",
            )
        },
        build_folders=("include/", "lib/", "share/cmake/"),
        platforms=("host", "linux-arm64"),
    ),
    "onnxruntime": _Package(
        name="onnxruntime",
        libraries={"libonnxruntime.so.1": "capi/libonnxruntime.so.*"},
        build_folders=("capi/libonnxruntime.so.",),
        platforms=("host", "linux-arm64"),
    ),
    # The package of PyTorch for arm64 is a CUDA build of gigabytes.
    "torchscript-lite": _Package(
        name="torch",
        libraries={name: f"lib/{name}" for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")},
        build_folders=("include/", "lib/"),
        platforms=("host",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class EngineLibraries:
    """An engine's native side for one platform.

    Attributes:
        root: The package's folder: headers, libraries, CMake files.
        libraries: What a runner loads at run time: name -> file.
    """

    version: str
    root: Path
    libraries: dict[str, Path]


def runs_on(engine: str, platform: Platform) -> bool:
    """Tell whether an engine has native libraries for a platform."""
    return engine in _PACKAGES and platform in _PACKAGES[engine].platforms


def engine_libraries(engine: str, platform: Platform, progress: Progress) -> EngineLibraries:
    """Return an engine's libraries, downloading those of another platform on first use.

    Raises:
        ToolMissingError: The engine's Python package, or pip, is not installed.
        EngineLibrariesMissingError: There is none for the platform, or it cannot be downloaded.
    """
    package = _PACKAGES[engine]
    if platform not in package.platforms:
        raise EngineLibrariesMissingError(
            f"there is no native library of {engine!r} for {platform}",
            known=", ".join(package.platforms),
            hint="validate this format on the host",
        )
    try:
        version = importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolMissingError(
            f"the Python package {package.name!r} is not installed", hint=f"pip install {package.name}"
        ) from error
    root = _installed(package) if platform == "host" else _downloaded(package, version, platform, progress)
    return EngineLibraries(
        version=version,
        root=root,
        libraries={name: _one(root, pattern) for name, pattern in package.libraries.items()},
    )


def _installed(package: _Package) -> Path:
    spec = importlib.util.find_spec(package.name)  # does not import it
    assert spec is not None and spec.submodule_search_locations  # its metadata was just read
    return Path(next(iter(spec.submodule_search_locations)))


def _downloaded(package: _Package, version: str, platform: Platform, progress: Progress) -> Path:
    release = version.partition("+")[0]

    def make(folder: Path) -> None:
        progress.start(f"download {package.name} {release} for {platform}")
        wheel = _download(f"{package.name}=={release}", platform, folder)
        _unpack(wheel, package, folder)
        wheel.unlink()
        progress.finish(f"{sum(path.stat().st_size for path in folder.rglob('*.so*')) / 1e6:.0f} MB")

    return kept(f"engines/{package.name}-{release}-{platform}", make) / package.name


def _download(requirement: str, platform: Platform, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ToolMissingError("the Python package 'pip' is not installed", hint="python -m ensurepip")
    # The Python version only chooses the wheel: what is taken out of it does not depend on it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--platform", _WHEEL_PLATFORM[platform], "--python-version", "311"]
    command += ["--dest", str(folder), requirement]
    done = run_process(command, timeout_seconds=_DOWNLOAD_SECONDS)
    wheels = list(folder.glob("*.whl"))
    if not done.ok or len(wheels) != 1:
        raise EngineLibrariesMissingError(
            f"cannot download {requirement} for {platform}",
            command=" ".join(command),
            found=done.outcome(),
            log=done.last_lines(),
            hint="it is needed once, then kept in the cache",
        )
    return wheels[0]


def _unpack(wheel: Path, package: _Package, folder: Path) -> None:
    """Take out what a build and a run need; `ZipFile.extract` keeps every path below `folder`."""
    prefixes = tuple(f"{package.name}/{part}" for part in package.build_folders)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.startswith(prefixes):
                    archive.extract(member, folder)
    except zipfile.BadZipFile as error:
        raise EngineLibrariesMissingError(f"the download is damaged: {error}", where=wheel.name) from error


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise EngineLibrariesMissingError(
            f"the package {root.name!r} has no library of its own for C++",
            where=str(root),
            expected=pattern,
            found=", ".join(path.name for path in found) or "nothing",
            hint=f"install the release of {root.name} that edgecompile is tested with",
        )
    return found[0]
