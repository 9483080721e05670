"""Opens a connection by the name that the command line gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompile.connection import Connection
from edgecompile.device import load_device
from edgecompile.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from edgecompile.connections.emulator import Emulator

_KNOWN = ("host", "emulator", "adb", "adb:SERIAL", "ssh:USER@HOST", "ssh:USER@HOST:PORT")


def connect(name: str, *, device: str | None = None, cpu: str | None = None) -> Connection:
    """Open a connection.

    Args:
        name: "host", "emulator", "adb", "adb:SERIAL" or "ssh:USER@HOST[:PORT]".
        device: For the emulator, the profile whose CPU and cpuinfo it shows.
        cpu: For the emulator, a CPU model of QEMU's instead.

    Raises:
        UsageError: An unknown place; a device or CPU for a place that has its own, or both.
        ToolMissingError: The emulator, or the client for the place, is not installed.
        DeviceNotFoundError: No such device is attached.
        DeviceUnreachableError: The device lets nobody in.
        DeviceUnsupportedError: There is no runner for the device.
    """
    kind, colon, rest = name.partition(":")
    if kind not in ("host", "emulator", "adb", "ssh") or (colon and not rest):
        raise _unknown(name, kind)
    if kind != "emulator" and (device or cpu):
        raise UsageError(f"--device and --cpu choose what the emulator plays, not '{name}'")
    if kind == "adb":
        from edgecompile.connections.adb import Adb

        return Adb(rest or None)
    if kind == "ssh" and rest:
        from edgecompile.connections.ssh import Ssh, parse_address

        return Ssh(parse_address(rest))
    if kind == "ssh" or rest:
        raise _unknown(name, kind)
    if kind == "host":
        from edgecompile.connections.host import Host

        return Host()
    return _emulator(device, cpu, counting=False)


def counting_emulator(*, device: str | None = None, cpu: str | None = None) -> Emulator:
    """Open the emulator so that it counts instructions.

    Of a device it shows only the fastest kind of core: engines choose their kernels by the core that they
    happen to start on, which is not the emulator's to say.

    Raises:
        UsageError: Both a device and a CPU.
        ToolMissingError: The emulator is not installed, or takes no plugins.
    """
    return _emulator(device, cpu, counting=True)


def _emulator(device: str | None, cpu: str | None, *, counting: bool) -> Emulator:
    from edgecompile.connections.emulator import DEFAULT_CPU, Emulator

    if device and cpu:
        raise UsageError("--device and --cpu say the same thing twice", hint="leave one of them out")
    if device is None:
        return Emulator(cpu or DEFAULT_CPU, counting=counting)
    profile = load_device(device)
    core = profile.shown_clusters[-1].core if counting and profile.shown_clusters else None
    return Emulator(profile.emulator.cpu, profile.cpuinfo_text(core), counting=counting)


def _unknown(name: str, kind: str) -> UsageError:
    guess = did_you_mean(kind, ("host", "emulator", "adb", "ssh"))
    hint = f"did you mean {guess!r}?" if guess and guess != kind else None
    return UsageError(f"there is no place {name!r} to run on", known=", ".join(_KNOWN), hint=hint)
