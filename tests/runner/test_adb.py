"""The connection `adb`: the real client and its server, and a stand-in that speaks the protocol of adbd."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch
from adb_device import AdbDevice

from edgecompile import validate
from edgecompile.cli.main import main
from edgecompile.connect import connect
from edgecompile.connections import adb
from edgecompile.connections.adb import Adb
from edgecompile.connections.host import Host
from edgecompile.errors import (
    DeviceFullError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceUnreachableError,
    DeviceUnsupportedError,
    RunnerFailedError,
    RunnerTimedOutError,
    ToolMissingError,
)
from edgecompile.run_artifact import run_artifact

CLIENT = shutil.which("adb")
PIXEL = {
    "ro.product.model": "Pixel 6",
    "ro.soc.model": "Tensor",
    "ro.build.version.release": "14",
    "ro.product.cpu.abi": "x86_64",
}

pytestmark = [
    pytest.mark.usefixtures("host_tools", "client"),
    pytest.mark.skipif(CLIENT is None, reason="the client of adb is not installed (apt-get install adb)"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The real client, with a server and a home folder of its own."""
    root = tmp_path_factory.mktemp("adb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wrapper = root / "bin/adb"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nHOME={root} ANDROID_ADB_SERVER_PORT={port} TMPDIR={root} exec {CLIENT} "$@"\n'
    )
    wrapper.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
        patch.delenv("ANDROID_SERIAL", raising=False)
        subprocess.run([wrapper, "start-server"], check=True, capture_output=True, timeout=60)
        yield wrapper
        subprocess.run([wrapper, "kill-server"], check=True, capture_output=True, timeout=60)


@pytest.fixture
def attach(client, tmp_path, monkeypatch):
    """A function that attaches one more device; all of them share one folder."""
    monkeypatch.setattr(adb, "BASE", str(tmp_path / "data/edgecompile"))
    devices = []

    def add(properties=PIXEL, **options) -> AdbDevice:
        device = AdbDevice(tmp_path / f"device{len(devices)}", properties, **options)
        devices.append(device)
        connected = subprocess.run(
            [client, "connect", device.serial], capture_output=True, text=True, timeout=60, check=False
        )
        assert device.unauthorized or "connected to" in connected.stdout, connected
        return device

    yield add
    for device in devices:
        subprocess.run([client, "disconnect", device.serial], capture_output=True, timeout=60, check=False)
        device.disappear()


def test_its_folder():
    assert adb.BASE == "/data/local/tmp/edgecompile"  # the only one that a phone's shell may execute from


@pytest.mark.parametrize("features", ["shell_v2,cmd", "cmd"])
def test_outputs_equal_those_of_this_machine(made, attach, features):
    attach(features=features)
    item = made["int8.pte"]
    here = item.run_on(Host())
    there = item.run_on(connect("adb"), expected=here.outputs)
    assert there.goldens_passed
    for got, wanted in zip(there.outputs, here.outputs, strict=True):
        assert all(map(torch.equal, got, wanted))
    assert there.connection == "adb (Pixel 6, Tensor, Android 14)"


def test_validate_adds_a_row_for_the_device(bundle, attach, capsys, monkeypatch):
    device = attach()
    # ONNX Runtime and PyTorch are big, and no different.
    monkeypatch.setattr(validate, "runs_on", lambda engine, platform: engine == "executorch")
    capsys.readouterr()
    options = ["--no-layers", "--json", "--on", f"adb:{device.serial}"]
    assert main(["validate", str(bundle), *options]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["quality"]}
    assert rows["pte on adb (Pixel 6, Tensor, Android 14)"]["identical"] == 1


def test_what_is_kept_there_is_not_sent_again(made, attach):
    device = attach()
    item = made["int8.pte"]
    item.run_on(connect("adb"))
    assert not list(Path(adb.BASE).glob("run-*"))
    assert max(device.received) > 1_000_000
    device.received.clear()
    with connect("adb") as connection:
        for _ in range(2):
            run_artifact(item.path, item.sha256, item.samples, connection, engine=item.engine, iterations=1)
    model = item.path.stat().st_size
    assert device.received.count(model) == 1  # under two names
    assert max(device.received) == max(model, 3 * 16 * 16 * 4)


@pytest.mark.parametrize("features", ["shell_v2,cmd", "cmd"])
def test_how_a_program_ends_is_told(attach, tmp_path, features):
    attach(features=features)
    with connect("adb") as connection:
        crashed = connection.run(["/bin/sh", "-c", "echo last words >&2; kill -SEGV $$"], 20)
        assert crashed.signal == "SIGSEGV"
        assert "last words" in crashed.last_lines()
        assert connection.run(["/bin/sh", "-c", "printf 'no newline'; exit 7"], 20).exit_code == 7
        with pytest.raises(RunnerFailedError, match="did not write 'absent"):
            connection.fetch(["absent.raw"], tmp_path)


def test_a_hanging_program_is_killed_with_all_that_it_started(made, attach, tmp_path, state_of):
    attach()
    with connect("adb") as connection:
        hung = connection.run(["/bin/sh", "-c", "sleep 300 & echo $! > pid; wait"], 2)
        connection.fetch(["pid"], tmp_path)
    assert hung.timed_out
    assert state_of(int((tmp_path / "pid").read_text())) in ("", "Z")
    with pytest.raises(RunnerTimedOutError):
        made["int8.pte"].run_on(connect("adb"), warmup=1_000_000, timeout_seconds=1)


def test_a_device_that_disappears_in_mid_run(attach):
    device = attach()
    with connect("adb") as connection:
        threading.Timer(1, device.disappear).start()
        start = time.monotonic()
        with pytest.raises(DeviceLostError, match="broke") as error:
            connection.run(["/bin/sleep", "300"], 60)
    assert time.monotonic() - start < 30
    assert error.value.exit_status == 6
    assert error.value.lines["where"] == "adb (Pixel 6, Tensor, Android 14)"
    with pytest.raises(DeviceUnreachableError, match="offline") as error:
        connect(f"adb:{device.serial}")
    assert "plug it in again" in error.value.lines["hint"]


def test_a_device_without_space(made, attach):
    device = attach()
    device.full = True
    with pytest.raises(DeviceFullError) as error:
        made["int8.pte"].run_on(connect("adb"))
    assert "MB" in error.value.lines["expected"]
    assert "No space left" in error.value.lines["log"]
    assert not list(Path(adb.BASE).glob("kept/*"))


def test_a_folder_that_cannot_be_made(attach, monkeypatch):
    attach()
    monkeypatch.setattr(adb, "BASE", "/proc/nowhere")
    with pytest.raises(DeviceUnsupportedError, match="folder cannot be made"):
        connect("adb")


def test_no_device_and_a_wrong_serial(attach):
    with pytest.raises(DeviceNotFoundError, match="no device is attached") as error:
        connect("adb")
    assert error.value.exit_status == 6
    device = attach()
    with pytest.raises(DeviceNotFoundError, match="no device with the serial") as error:
        connect(f"adb:{device.serial[:-1]}")
    assert error.value.lines["hint"] == f"did you mean {device.serial!r}?"


def test_several_devices_are_listed(attach, monkeypatch, capsys):
    first = attach()
    second = attach({**PIXEL, "ro.product.model": "Galaxy S24", "ro.product.cpu.abi": "armeabi-v7a"})
    with pytest.raises(DeviceNotFoundError, match="2 devices") as error:
        connect("adb")
    assert f"{first.serial} (Pixel 6)" in error.value.lines["known"]
    assert f"{second.serial} (Galaxy S24)" in error.value.lines["known"]
    monkeypatch.setenv("ANDROID_SERIAL", first.serial)
    with connect("adb") as connection:
        assert connection.device.serial == first.serial
    capsys.readouterr()
    assert main(["devices", "--attached", "--json"]) == 0
    listed = {row.pop("serial"): row for row in json.loads(capsys.readouterr().out)["attached"]}
    assert listed[first.serial] == {
        "state": "device",
        "model": "Pixel 6",
        "soc": "Tensor",
        "android": "14",
        "abi": "x86_64",
    }
    assert main(["devices", "--attached"]) == 0
    assert "Galaxy S24" in capsys.readouterr().out


def test_a_device_of_another_abi(attach):
    attach({**PIXEL, "ro.product.cpu.abi": "armeabi-v7a"})
    with pytest.raises(DeviceUnsupportedError, match="armeabi-v7a") as error:
        connect("adb")
    assert "arm64-v8a" in error.value.lines["expected"]


def test_an_unauthorized_device(attach):
    attach(unauthorized=True)
    with pytest.raises(DeviceUnreachableError, match="unauthorized") as error:
        connect("adb")
    assert "accept the dialog" in error.value.lines["hint"]


def test_no_client(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="'adb' is not installed"):
        Adb()


@pytest.mark.parametrize(
    ("serial", "state", "rest", "model"),
    [
        ("1A2B", "device", "usb:1-1 product:oriole model:Pixel_6 device:oriole transport_id:1", "Pixel 6"),
        ("1A2B", "no permissions (udev rules?); see [http://developer.android.com]", "usb:1-1", ""),
        ("emulator-5554", "offline", "transport_id:3", ""),
        ("emulator-5554", "unauthorized", "", ""),
    ],
)
def test_what_adb_lists(tmp_path, serial, state, rest, model):
    fake = tmp_path / "adb"
    lines = ["* daemon started", "List of devices attached", f"{serial}    {state} {rest}"]
    fake.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    fake.chmod(0o755)
    (found,) = adb._listed(str(fake))
    assert (found.serial, found.state, found.model) == (serial, state, model)
