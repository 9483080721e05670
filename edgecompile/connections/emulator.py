"""An arm64 Linux of a chosen CPU core, emulated by QEMU's user mode: exact results, no times.

The engines choose kernels by the instruction set and by the core's number in /proc/cpuinfo. QEMU gives
the first and, left alone, shows the host's file for the second; so the emulator has a system root with
the files of the wanted core.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgecompile.cache import kept, key
from edgecompile.connections._local_folder import LocalFolder
from edgecompile.device import Cluster, processor_text
from edgecompile.engine_libraries import Platform
from edgecompile.errors import ToolMissingError, UnknownCpuError
from edgecompile.instruction_count import Instructions, counting_plugin, read_counts
from edgecompile.process import Completed, run_process

DEFAULT_CPU = "cortex-a76"

_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
_CORES = 4
_COUNTS = "instructions.txt"

# The parts (MIDR_EL1) of the Arm cores that QEMU emulates.
_PARTS = {
    "cortex-a35": 0xD04,
    "cortex-a53": 0xD03,
    "cortex-a57": 0xD07,
    "cortex-a72": 0xD08,
    "cortex-a76": 0xD0B,
    "neoverse-n1": 0xD0C,
}


class Emulator(LocalFolder):
    """The connection `emulator`.

    Args:
        cpu: QEMU's name of the core.
        cpuinfo: The text of /proc/cpuinfo that the runner sees; by default that of the core.
        counting: Whether each run's instructions are counted, for `instructions`.

    Raises:
        ToolMissingError: QEMU, or the C library for arm64, is not installed, or nothing to count with.
        UnknownCpuError: QEMU knows no such core.
    """

    platform: Platform = "linux-arm64"

    def __init__(self, cpu: str = DEFAULT_CPU, cpuinfo: str | None = None, *, counting: bool = False) -> None:
        self.qemu = _find_qemu()
        _check_cpu(self.qemu, cpu)
        self.cpu = cpu
        self.description = f"emulator ({cpu})"
        self.root = _system_root(cpuinfo if cpuinfo is not None else cpuinfo_of(cpu))
        self.plugin = counting_plugin(self.qemu) if counting else None
        super().__init__()

    def run(self, argv: Sequence[str], timeout_seconds: float) -> Completed:
        """Run a pushed program in the folder."""
        program, *arguments = argv
        command = [self.qemu, "-cpu", self.cpu, "-L", str(self.root)]
        if self.plugin:
            (self.folder / _COUNTS).unlink(missing_ok=True)
            command += ["-plugin", f"{self.plugin},out={self.folder / _COUNTS}"]
        command += ["-E", f"LD_LIBRARY_PATH={self.folder}", str(self.folder / program), *arguments]
        return run_process(command, timeout_seconds=timeout_seconds, folder=self.folder)

    def instructions(self) -> Instructions:
        """Return what the last run executed.

        Raises:
            RunnerFailedError: It did not get to its timed iterations, or nothing was counted.
        """
        counts = self.folder / _COUNTS
        return read_counts(counts.read_text() if counts.exists() else "", self.description)


def cpuinfo_of(cpu: str) -> str:
    """Return what Linux's /proc/cpuinfo says on a machine with this core, or "" where it is not known."""
    if cpu not in _PARTS:
        return ""
    core = Cluster(core=cpu, count=_CORES, implementer=0x41, part=_PARTS[cpu])
    return "".join(processor_text(number, core, cpu) for number in range(_CORES))


def _find_qemu() -> str:
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise ToolMissingError(
            "the emulator, qemu-aarch64, is not installed", hint="apt-get install qemu-user"
        )
    if not (_LIBRARIES / "ld-linux-aarch64.so.1").exists():
        raise ToolMissingError(
            "the C library for arm64 is not installed",
            where=str(_LIBRARIES),
            hint="apt-get install crossbuild-essential-arm64",
        )
    return qemu


def _check_cpu(qemu: str, cpu: str) -> None:
    listing = run_process([qemu, "-cpu", "help"], timeout_seconds=20).stdout
    models = re.findall(r"^\s+(\S+)", listing, re.MULTILINE)
    # The SME of QEMU 7.2's "max" breaks integer kernels, so "max" alone is not offered.
    known = ["max,sme=off" if model == "max" else model for model in models]
    if cpu not in known:
        raise UnknownCpuError(cpu, known)


def _system_root(cpuinfo: str) -> Path:
    """Return a root folder that QEMU looks in before the host's own."""

    def make(folder: Path) -> None:
        (folder / "lib").symlink_to(_LIBRARIES)
        if not cpuinfo:
            return
        (folder / "proc").mkdir()
        (folder / "proc/cpuinfo").write_text(cpuinfo)
        cores = folder / "sys/devices/system/cpu"
        cores.mkdir(parents=True)
        count = cpuinfo.count("processor\t:")
        for name in ("possible", "present"):
            (cores / name).write_text(f"0-{count - 1}\n" if count > 1 else "0\n")

    return kept(f"sysroots/{key(cpuinfo, str(_LIBRARIES))}", make)
