"""Building: what is missing is named, what fails is shown, what is whole is kept."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from edgecompile import engine_libraries, runner_build, shipped, toolchain
from edgecompile.cache import kept
from edgecompile.engine_libraries import EngineLibraries
from edgecompile.errors import (
    CacheNotWritableError,
    EngineLibrariesMissingError,
    RunnerBuildError,
    ToolMissingError,
)
from edgecompile.progress import QuietProgress
from edgecompile.runner_build import built_runner
from edgecompile.toolchain import find_toolchain


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGECOMPILE_CACHE", raising=False)
    return tmp_path / "cache/edgecompile"


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A machine with just these tools: a function that adds one that prints a version."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(toolchain.sys, "executable", str(tmp_path / "python"))

    def add(name: str, version: str = "1.0") -> None:
        tool = folder / name
        tool.write_text(f"#!/bin/sh\necho '{name} version {version}'\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    return add


def test_each_missing_tool_is_named_with_its_package(tools):
    def message(platform="host"):
        with pytest.raises(ToolMissingError) as error:
            find_toolchain(platform)
        return error.value

    assert "apt-get install g++" in message().lines["hint"]
    assert "crossbuild-essential-arm64" in message("linux-arm64").lines["hint"]
    tools("g++")
    assert "pip install ninja" in message().lines["hint"]
    tools("ninja")
    assert "pip install 'cmake>=3.28'" in message().lines["hint"]
    tools("cmake", "3.25.1")
    assert "too old" in message().message
    assert "3.25.1" in message().lines["found"]
    tools("cmake", "3.28.4")
    assert find_toolchain("host").compiler.endswith("g++ version 1.0")


def test_a_build_is_kept(host_tools):
    first = built_runner("executorch", "host", QuietProgress())
    binary = first.files["edgecompile-run-executorch"]
    written = binary.stat().st_mtime_ns
    again = built_runner("executorch", "host", QuietProgress())
    assert again == first
    assert binary.stat().st_mtime_ns == written
    assert all(file.exists() for file in again.files.values())
    assert binary.stat().st_size < 200_000


def test_a_source_that_does_not_compile_is_shown_and_nothing_kept(
    host_tools, own_cache, tmp_path, monkeypatch
):
    sources = tmp_path / "runners"
    sources.mkdir()
    (sources / "CMakeLists.txt").write_text("message(FATAL_ERROR broken-on-purpose)")
    (sources / "CMakePresets.json").write_text('{"version": 6, "configurePresets": [{"name": "host"}]}')
    monkeypatch.setattr(shipped, "runners_folder", lambda: sources)
    with pytest.raises(RunnerBuildError) as error:
        built_runner("executorch", "host", QuietProgress())
    assert error.value.exit_status == 6
    assert error.value.lines["found"] == "exit code 1"
    assert "--preset host" in error.value.lines["command"]
    assert "broken-on-purpose" in error.value.lines["log"]
    assert [path.suffix for path in (own_cache / "runners").iterdir()] == [".lock"]


def test_an_engine_that_cannot_be_downloaded(own_cache, monkeypatch):
    monkeypatch.setattr(engine_libraries.importlib.metadata, "version", lambda name: "0.0.0.1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EngineLibrariesMissingError) as error:
        engine_libraries.engine_libraries("executorch", "linux-arm64", QuietProgress())
    assert "pip download" in error.value.lines["command"]
    assert error.value.lines["log"]


def test_a_package_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_libraries, "_installed", lambda package: tmp_path)
    with pytest.raises(EngineLibrariesMissingError, match="no library of its own"):
        engine_libraries.engine_libraries("onnxruntime", "host", QuietProgress())


def test_two_builds_at_once_make_it_once(own_cache):
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("whole")

    threads = [threading.Thread(target=kept, args=("things/one", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert (own_cache / "things/one/file").read_text() == "whole"


def test_what_fails_half_way_is_not_kept(own_cache):
    def make(folder: Path) -> None:
        (folder / "half").touch()
        raise RunnerBuildError("no")

    with pytest.raises(RunnerBuildError):
        kept("things/two", make)
    assert not (own_cache / "things/two").exists()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(CacheNotWritableError) as error:
        kept("things/three", lambda folder: None)
    assert "XDG_CACHE_HOME" in error.value.lines["hint"]


def test_the_key_changes_with_the_sources_and_the_engine(host_tools, own_cache, tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(runner_build, "kept", lambda name, make: keys.append(name) or Path(name))
    versions = iter(["1", "1", "2"])

    def libraries(*arguments):
        return EngineLibraries(version=next(versions), root=tmp_path, libraries={})

    monkeypatch.setattr(runner_build, "engine_libraries", libraries)
    for _ in range(3):
        built_runner("executorch", "host", QuietProgress())
    assert keys[0] == keys[1] != keys[2]
