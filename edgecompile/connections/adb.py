"""An Android device that is reached with the real adb client, whose shell may execute what it is sent."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile.connections._remote_folder import SECONDS, RemoteFolder, is_like_this_machine
from edgecompile.engine_libraries import Platform
from edgecompile.errors import (
    DeviceLostError,
    DeviceNotFoundError,
    DeviceUnreachableError,
    DeviceUnsupportedError,
    ToolMissingError,
    did_you_mean,
)
from edgecompile.process import Completed, run_process

BASE = "/data/local/tmp/edgecompile"

_READY = "device"
_HINTS = {
    "unauthorized": "unlock the device and accept the dialog 'Allow USB debugging?'",
    "authorizing": "unlock the device and accept the dialog 'Allow USB debugging?'",
    "offline": "plug it in again, or `adb reconnect offline`",
    "no permissions": "apt-get install android-sdk-platform-tools-common, and plug it in again",
}
# What is asked of the device; the chip has a property of its own since Android 12.
_PROPERTIES = {
    "model": "ro.product.model",
    "chip": "ro.soc.model",
    "board": "ro.board.platform",
    "android": "ro.build.version.release",
    "abi": "ro.product.cpu.abi",
}


@dataclass(frozen=True, kw_only=True)
class AttachedDevice:
    """A device as `adb devices` lists it, and what it says about itself where it answers.

    Attributes:
        state: "device" where it answers; "offline", "unauthorized" and the like.
        abi: The one that it prefers, "arm64-v8a" for example.
    """

    serial: str
    state: str
    model: str = ""
    soc: str = ""
    android: str = ""
    abi: str = ""

    @property
    def name(self) -> str:
        """Model, chip and version, those that are known."""
        android = f"Android {self.android}" if self.android else ""
        return ", ".join(part for part in (self.model, self.soc, android) if part) or self.serial


class Adb(RemoteFolder):
    """The connection `adb[:SERIAL]`.

    Args:
        serial: Of the device; by default the one of ANDROID_SERIAL, or the only one that is attached.

    Raises:
        ToolMissingError: The adb client is not installed.
        DeviceNotFoundError: There is no such device, or there are several.
        DeviceUnreachableError: It is offline or unauthorized.
        DeviceUnsupportedError: There is no runner for its ABI.
    """

    def __init__(self, serial: str | None = None) -> None:
        self._adb = _client()
        listed = _chosen(_listed(self._adb), serial or os.environ.get("ANDROID_SERIAL"))
        if listed.state != _READY:
            raise DeviceUnreachableError(
                f"the device is {listed.state}",
                where=f"adb:{listed.serial}",
                hint=next((hint for state, hint in _HINTS.items() if listed.state.startswith(state)), None),
            )
        self.device = _asked(self._adb, listed)
        self._serial = self.device.serial
        self.description = f"adb ({self.device.name})"
        self.platform = _platform(self.device)
        super().__init__(BASE)

    def _shell(self, command: str, timeout_seconds: float) -> Completed:
        return self._run(["shell", command], timeout_seconds)

    def _send(self, files: Sequence[Path], folder: str, timeout_seconds: float) -> Completed:
        return self._run(["push", *map(str, files), f"{folder}/"], timeout_seconds)

    def _receive(self, names: Sequence[str], folder: Path, timeout_seconds: float) -> Completed:
        return self._run(
            ["pull", *(f"{self.folder}/{name}" for name in names), f"{folder}/"], timeout_seconds
        )

    def _run(self, arguments: Sequence[str], timeout_seconds: float) -> Completed:
        return run_process([self._adb, "-s", self._serial, *arguments], timeout_seconds=timeout_seconds)


def attached_devices() -> tuple[AttachedDevice, ...]:
    """Return what adb sees, and what those that answer say about themselves.

    Raises:
        ToolMissingError: The adb client is not installed.
        DeviceUnreachableError: adb itself does not work.
    """
    adb = _client()
    devices = []
    for device in _listed(adb):
        try:
            devices.append(_asked(adb, device) if device.state == _READY else device)
        except DeviceLostError:
            devices.append(device)
    return tuple(devices)


def _client() -> str:
    found = shutil.which("adb")
    if found is None:
        raise ToolMissingError("the client 'adb' is not installed", hint="apt-get install adb")
    return found


def _listed(adb: str) -> list[AttachedDevice]:
    done = run_process([adb, "devices", "-l"], timeout_seconds=SECONDS)
    if not done.ok:
        raise DeviceUnreachableError(
            "adb cannot list the devices", found=done.outcome(), log=done.last_lines()
        )
    _, _, lines = done.stdout.partition("List of devices attached")
    devices = []
    # SERIAL, a state that may have spaces, then NAME:VALUE words.
    for serial, state, words in re.findall(
        r"^(\S+)[ \t]+(.+?)((?:[ \t]+\w+:\S+)*)[ \t]*$", lines, re.MULTILINE
    ):
        named = dict(word.split(":", 1) for word in words.split())
        model = named.get("model", "").replace("_", " ")
        devices.append(AttachedDevice(serial=serial, state=state, model=model))
    return devices


def _chosen(devices: Sequence[AttachedDevice], serial: str | None) -> AttachedDevice:
    known = "\n".join(f"{device.serial} ({device.model or device.state})" for device in devices)
    if not devices:
        raise DeviceNotFoundError(
            "no device is attached to adb",
            hint="allow USB debugging in its developer options; `edgecompile devices --attached` lists it",
        )
    if serial is None and len(devices) > 1:
        raise DeviceNotFoundError(
            f"{len(devices)} devices are attached to adb",
            known=known,
            hint=f"name one: `--on adb:{devices[0].serial}`",
        )
    found = [device for device in devices if serial in (None, device.serial)]
    if not found:
        guess = did_you_mean(serial or "", [device.serial for device in devices])
        raise DeviceNotFoundError(
            f"no device with the serial {serial!r} is attached to adb",
            known=known,
            hint=f"did you mean {guess!r}?" if guess else None,
        )
    return found[0]


def _asked(adb: str, device: AttachedDevice) -> AttachedDevice:
    """Return a device with what its properties say."""
    script = "; ".join(f'echo "{name}=$(getprop {key})"' for name, key in _PROPERTIES.items())
    done = run_process([adb, "-s", device.serial, "shell", script], timeout_seconds=SECONDS)
    values = dict(re.findall(r"^(\w+)=(.*?)\s*$", done.stdout, re.MULTILINE))
    if "abi" not in values:
        raise DeviceLostError(
            "the device does not answer",
            where=f"adb:{device.serial}",
            found=done.outcome(),
            log=done.last_lines(),
        )
    return AttachedDevice(
        serial=device.serial,
        state=device.state,
        model=values["model"] or device.model,
        soc=values["chip"] or values["board"],
        android=values["android"],
        abi=values["abi"],
    )


def _platform(device: AttachedDevice) -> Platform:
    if device.abi == "arm64-v8a":
        return "linux-arm64"
    if is_like_this_machine(device.abi):
        return "host"
    raise DeviceUnsupportedError(
        f"there is no runner for the device's ABI, {device.abi or 'which it does not tell'!r}",
        where=f"adb ({device.name})",
        expected="arm64-v8a, or x86_64 where this machine is x86-64 Linux",
    )
