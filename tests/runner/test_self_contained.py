"""A self-contained runner takes nothing from the system, and tells nothing of the machine that built it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompile.connections._local_folder import LocalFolder
from edgecompile.connections.emulator import cpuinfo_of
from edgecompile.connections.host import Host
from edgecompile.errors import RunnerBuildError, ToolMissingError
from edgecompile.process import run_process
from edgecompile.progress import QuietProgress
from edgecompile.run_artifact import run_artifact
from edgecompile.runner_build import built_runner
from edgecompile.self_contained import copy_system_files
from edgecompile.toolchain import find_toolchain

LARGEST_MB = {"executorch": 25, "onnxruntime": 40}


class EmptyRoot(LocalFolder):
    """An arm64 Linux whose root folder holds the pushed files and nothing else that they could load.

    The emulator itself, an x86-64 program, is there with its own libraries below /emulator. The other three
    files are what every Linux kernel shows, and what XNNPACK counts the cores by.
    """

    platform = "linux-arm64"
    description = "an empty root"
    self_contained = True

    def __init__(self, qemu: str) -> None:
        super().__init__()
        emulator = self.folder / "emulator"
        emulator.mkdir()
        shutil.copy(qemu, emulator / "qemu")
        listed = subprocess.run(["ldd", qemu], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+)", listed):
            shutil.copy(library, emulator)
        (loader,) = emulator.glob("ld-*")
        self.emulator = [f"/emulator/{loader.name}", "--library-path", "/emulator", "/emulator/qemu"]
        cores = self.folder / "sys/devices/system/cpu"
        cores.mkdir(parents=True)
        (self.folder / "proc").mkdir()
        (self.folder / "proc/cpuinfo").write_text(cpuinfo_of("cortex-a76"))
        (cores / "possible").write_text("0-3\n")
        (cores / "present").write_text("0-3\n")

    def push(self, files, *, keep=False):
        for name, path in files.items():
            shutil.copy(path, self.folder / name)

    def run(self, argv, timeout_seconds):
        # chroot also makes the new root the working folder.
        command = ["chroot", str(self.folder), *self.emulator, "-cpu", "cortex-a76", *argv]
        return run_process(command, timeout_seconds=timeout_seconds)


@pytest.fixture
def empty_root(emulator):
    with emulator() as connection:
        qemu = connection.qemu
    trial = subprocess.run(["chroot", "/", "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("only root may change the root folder")
    with EmptyRoot(qemu) as connection:
        yield connection


@pytest.mark.parametrize("name", ["int8.pte", "fp32.pte", "int8.onnx"])
def test_it_runs_in_a_root_folder_that_holds_nothing_else(made, empty_root, name):
    item = made[name]
    before = {path.name for path in empty_root.folder.iterdir()}
    assert before == {"emulator", "proc", "sys"}
    found = run_artifact(
        item.path,
        item.sha256,
        item.samples,
        empty_root,
        engine=item.engine,
        iterations=1,
        expected=item.outputs(precise=True),
        min_sqnr_db=120,
    )
    assert found.goldens_passed
    files = {path.name for path in empty_root.folder.iterdir()} - before
    runner = built_runner(item.engine, "linux-arm64", QuietProgress(), self_contained=True)
    own = {name for name in files if not re.match(r"[0-9a-f]{8}_|output_", name)}
    assert own == set(runner.files)
    # The proof has teeth: nothing takes the place of a library that is missing.
    (empty_root.folder / "libstdc++.so.6").unlink()
    failed = empty_root.run([*runner.command, "--model", "x"], 60)
    assert failed.exit_code == 127
    assert "libstdc++.so.6" in failed.stderr


@pytest.mark.parametrize("engine", LARGEST_MB)
def test_its_size(emulator, engine):
    runner = built_runner(engine, "linux-arm64", QuietProgress(), self_contained=True)
    size_mb = sum(path.stat().st_size for path in runner.files.values()) / 1e6
    assert LARGEST_MB[engine] / 2 < size_mb < LARGEST_MB[engine]


@pytest.mark.parametrize("engine", ["executorch", "onnxruntime", "torchscript-lite"])
def test_the_host_runner_starts_by_its_own_loader(host_tools, engine):
    runner = built_runner(engine, "host", QuietProgress(), self_contained=True)
    assert runner.command[0].startswith("./ld")
    with Host() as host:
        host.push(runner.files)
        command = [runner.command[0], *runner.command[1:], "--model", "absent"]
        done = run_process(command, timeout_seconds=60, folder=host.folder)
    assert '"code": "load-failed"' in done.stdout


@pytest.mark.parametrize("engine", ["executorch", "onnxruntime", "torchscript-lite"])
def test_the_run_path_is_the_runners_own_folder_alone(host_tools, engine):
    runner = built_runner(engine, "host", QuietProgress())
    _check_run_path(runner.files[f"edgecompile-run-{engine}"])


@pytest.mark.parametrize("engine", ["executorch", "onnxruntime"])
def test_the_run_path_on_arm64(emulator, engine):
    runner = built_runner(engine, "linux-arm64", QuietProgress())
    _check_run_path(runner.files[f"edgecompile-run-{engine}"])


def _check_run_path(program: Path) -> None:
    listed = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]", listed) == ["$ORIGIN"]


@pytest.fixture
def toolchain(host_tools, tmp_path):
    """This machine's toolchain with a compiler that a test writes; a function that writes it."""

    def write(script: str):
        real = find_toolchain("host")
        compiler = tmp_path / "c++"
        compiler.write_text(f"#!/bin/sh\n{script}\n")
        compiler.chmod(0o755)
        return replace(real, environment={**real.environment, "CXX": str(compiler)})

    return write


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("echo /nowhere/readelf", ToolMissingError, "no readelf"),
        ("exit 3", RunnerBuildError, "cannot be found"),
        ('case $1 in *readelf) echo readelf;; *) echo "${1#*=}";; esac', RunnerBuildError, "no library 'ld-"),
        ("echo true", RunnerBuildError, "names no dynamic loader"),
    ],
)
def test_what_a_toolchain_does_not_have_is_named(toolchain, tmp_path, script, kind, message):
    program = built_runner("executorch", "host", QuietProgress()).files["edgecompile-run-executorch"]
    with pytest.raises(kind, match=message):
        copy_system_files(program, {}, toolchain(script), tmp_path)
