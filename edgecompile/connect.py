"""Opens a connection by the name that the command line gives it."""

from __future__ import annotations

from edgecompile.connection import Connection
from edgecompile.device import load_device
from edgecompile.errors import UsageError


def connect(name: str, *, device: str | None = None, cpu: str | None = None) -> Connection:
    """Open a connection.

    Args:
        name: "host" or "emulator".
        device: For the emulator, the profile whose CPU and cpuinfo it shows.
        cpu: For the emulator, a CPU model of QEMU's instead.

    Raises:
        UsageError: A device or CPU for a place that has its own, or both.
        ToolMissingError: The emulator is not installed.
    """
    if name != "emulator" and (device or cpu):
        raise UsageError(f"--device and --cpu choose what the emulator plays, not '{name}'")
    if device and cpu:
        raise UsageError("--device and --cpu say the same thing twice", hint="leave one of them out")
    if name == "host":
        from edgecompile.connections.host import Host

        return Host()
    from edgecompile.connections.emulator import DEFAULT_CPU, Emulator

    if device is None:
        return Emulator(cpu or DEFAULT_CPU)
    profile = load_device(device)
    return Emulator(profile.emulator.cpu, profile.cpuinfo_text())
