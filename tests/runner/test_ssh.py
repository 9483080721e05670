"""The connection `ssh:USER@HOST`: the real clients, and a real sshd of this machine that plays the board."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from edgecompile import validate
from edgecompile.cli.main import main
from edgecompile.connect import connect
from edgecompile.connections.host import Host
from edgecompile.connections.ssh import Ssh
from edgecompile.errors import (
    DeviceFullError,
    DeviceLostError,
    DeviceUnreachableError,
    DeviceUnsupportedError,
    RunnerFailedError,
    RunnerTimedOutError,
    ToolMissingError,
)
from edgecompile.run_artifact import run_artifact

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.defpath)

pytestmark = [
    pytest.mark.usefixtures("host_tools"),
    pytest.mark.skipif(
        not (SSHD and shutil.which("sftp")),
        reason="the ssh server or client is not installed (apt-get install openssh-server openssh-client)",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Board:
    """The sshd, and the user's side of it.

    Attributes:
        place: As `--on` takes it.
        folder: Where the connection's files are on the "board".
        user: The user's own files: keys, known hosts and the client's configuration.
    """

    place: str
    folder: Path
    user: Path
    server: subprocess.Popen[bytes]

    def sessions(self) -> list[int]:
        """The server's processes that serve a connection."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.server.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the server's own, which a service script makes
    root = tmp_path_factory.mktemp("ssh")
    for name in ("host_key", "id", "other_id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    addresses = ["127.0.0.1", "::1"] if _has_ipv6() else ["127.0.0.1"]
    listen = "".join(f"ListenAddress {address}\n" for address in addresses)
    (root / "sshd_config").write_text(
        f"Port {port}\n{listen}HostKey {root}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {root}/id.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        f"Subsystem sftp internal-sftp\nSetEnv HOME={root}/board\n"
    )
    known = (root / "host_key.pub").read_text().split()[:2]
    (root / "known_hosts").write_text(f"[127.0.0.1]:{port},[::1]:{port} {' '.join(known)}\n")
    log = (root / "sshd.log").open("wb")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", root / "sshd_config"], stderr=log)
    try:
        for _ in range(100):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (root / "sshd.log").read_text()
            time.sleep(0.05)
        yield Board(
            place=f"ssh:{getpass.getuser()}@127.0.0.1:{port}",
            folder=root / "board/.cache/edgecompile",
            user=root,
            server=server,
        )
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as trial:
        try:
            trial.bind(("::1", 0))
        except OSError:
            return False
        return True


@pytest.fixture(autouse=True)
def clients(board, tmp_path, monkeypatch):
    """The real clients with the test's own configuration; a function that changes it."""

    def configure(known_hosts: str = "known_hosts", identity: str = "id") -> None:
        (tmp_path / "ssh_config").write_text(
            f"IdentityFile {board.user}/{identity}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {board.user}/{known_hosts}\nGlobalKnownHostsFile /dev/null\n"
        )

    for name in ("ssh", "sftp"):
        wrapper = tmp_path / "bin" / name
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {tmp_path}/ssh_config "$@"\n')
        wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    configure()
    return configure


@pytest.fixture
def sent(monkeypatch):
    """The names and sizes of all files that go to the board."""
    files = []
    real = Ssh._send

    def send(self, paths, folder, timeout_seconds):
        files.extend(path.stat().st_size for path in paths)
        return real(self, paths, folder, timeout_seconds)

    monkeypatch.setattr(Ssh, "_send", send)
    return files


@pytest.mark.parametrize("name", ["int8.pte", "int8.onnx"])
def test_outputs_equal_those_of_this_machine(made, board, name):
    item = made[name]
    here = item.run_on(Host())
    there = item.run_on(connect(board.place), expected=here.outputs)
    assert there.goldens_passed
    for got, wanted in zip(there.outputs, here.outputs, strict=True):
        assert all(map(torch.equal, got, wanted))
    assert there.connection == f"ssh ({getpass.getuser()}@127.0.0.1)"


def test_validate_adds_a_row_for_the_board(bundle, board, capsys, monkeypatch):
    # ONNX Runtime and PyTorch are big, and no different.
    monkeypatch.setattr(validate, "runs_on", lambda engine, platform: engine == "executorch")
    capsys.readouterr()
    options = ["--no-layers", "--json", "--on", board.place]
    assert main(["validate", str(bundle), *options]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["quality"]}
    assert rows[f"pte on ssh ({getpass.getuser()}@127.0.0.1)"]["identical"] == 1


def test_what_is_kept_there_is_not_sent_again(made, board, sent):
    item = made["int8.pte"]
    item.run_on(connect(board.place))
    assert not list(board.folder.glob("run-*"))  # only what may be kept is left
    sent.clear()
    with connect(board.place) as connection:
        for _ in range(2):
            run_artifact(item.path, item.sha256, item.samples, connection, engine=item.engine, iterations=1)
    model = item.path.stat().st_size
    assert sent.count(model) == 1  # under two names
    assert max(sent) <= max(model, 3 * 16 * 16 * 4)
    kept = [path.name for path in (board.folder / "kept").iterdir()]
    assert all(len(name) == 64 for name in kept)


def test_a_file_that_a_power_cut_emptied_is_sent_again(made, board):
    with connect(board.place) as connection:
        connection.push({"model": made["int8.pte"].path}, keep=True)
    (board.folder / "kept" / made["int8.pte"].sha256).write_bytes(b"")
    with connect(board.place) as connection:
        connection.push({"model": made["int8.pte"].path}, keep=True)
        assert (board.folder / "kept" / made["int8.pte"].sha256).stat().st_size > 0


@pytest.mark.skipif(not _has_ipv6(), reason="there is no IPv6 here")
def test_an_address_in_brackets(board, tmp_path):
    with connect(board.place.replace("127.0.0.1", "[::1]")) as connection:
        connection.push({"a file": board.user / "id.pub"})
        connection.fetch(["a file"], tmp_path)
    assert (tmp_path / "a file").read_bytes() == (board.user / "id.pub").read_bytes()


def test_a_crash_there_is_named(board):
    with connect(board.place) as connection:
        crashed = connection.run(["/bin/sh", "-c", "echo last words >&2; kill -SEGV $$"], 20)
        assert crashed.signal == "SIGSEGV"
        assert crashed.last_lines().startswith("last words")
        assert connection.run(["/bin/sh", "-c", "printf 'no newline'; exit 7"], 20).exit_code == 7
        assert connection.run(["/bin/echo", "a b", "'$HOME'"], 20).stdout.strip() == "a b '$HOME'"
        with pytest.raises(RunnerFailedError, match="did not write 'absent"):
            connection.fetch(["absent.raw"], board.user)


def test_a_hanging_program_is_killed_with_all_that_it_started(made, board, tmp_path, state_of):
    with connect(board.place) as connection:
        hung = connection.run(["/bin/sh", "-c", "sleep 300 & echo $! > pid; wait"], 2)
        connection.fetch(["pid"], tmp_path)
    assert hung.timed_out
    assert state_of(int((tmp_path / "pid").read_text())) in ("", "Z")
    with pytest.raises(RunnerTimedOutError):
        made["int8.pte"].run_on(connect(board.place), warmup=1_000_000, timeout_seconds=1)


def test_a_connection_that_breaks_in_mid_run(board, tmp_path, state_of):
    with connect(board.place) as connection:
        pid = board.folder / f"run-{connection._token}" / "pid"

        def cut() -> None:
            while not pid.exists() or not pid.read_text():
                time.sleep(0.05)
            (tmp_path / "pid").write_text(pid.read_text())
            for session in board.sessions():
                os.kill(session, 9)

        thread = threading.Thread(target=cut)
        thread.start()
        with pytest.raises(DeviceLostError) as error:
            connection.run(["/bin/sh", "-c", "echo $$ > pid; sleep 300"], 60)
        thread.join()
    assert error.value.exit_status == 6
    assert error.value.lines["where"] == connection.description
    # Closing found the way back, ended the program and cleaned up.
    assert state_of(int((tmp_path / "pid").read_text())) in ("", "Z")
    assert not pid.parent.exists()


def test_closing_a_lost_board_is_silent(board, clients):
    connection = connect(board.place)
    clients(identity="other_id")
    connection._disconnect()
    connection.close()


@pytest.mark.parametrize(
    ("known_hosts", "identity", "log", "hint"),
    [
        ("nothing", "id", "Host key verification failed", "compare the key"),
        ("changed", "id", "has changed", "ssh-keygen -R 127.0.0.1"),
        ("known_hosts", "other_id", "Permission denied", "ssh-copy-id"),
    ],
)
def test_a_board_that_does_not_let_us_in(board, clients, known_hosts, identity, log, hint):
    key = (board.user / "other_id.pub").read_text().split()[:2]
    port = board.place.rpartition(":")[2]
    (board.user / "changed").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
    clients(known_hosts, identity)
    with pytest.raises(DeviceUnreachableError) as error:
        connect(board.place)
    assert log in error.value.lines["log"]
    assert hint in error.value.lines["hint"]
    assert not (board.user / "nothing").exists()  # the key was not taken over


def test_a_server_that_is_not_there(board):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(DeviceUnreachableError) as error:
            connect(f"ssh:pi@127.0.0.1:{free.getsockname()[1]}")
    assert "is an ssh server running there" in error.value.lines["hint"]
    with pytest.raises(DeviceUnreachableError) as error:
        connect("ssh:pi@board.invalid")
    assert "is the name right" in error.value.lines["hint"]


def test_no_client(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="'ssh' is not installed"):
        connect("ssh:pi@board")


@pytest.mark.parametrize("says", ["Linux armv7l", "Darwin arm64"])
def test_a_system_without_a_runner(board, monkeypatch, says):
    monkeypatch.setattr(Ssh, "_look", lambda self: (says, "/nowhere"))
    with pytest.raises(DeviceUnsupportedError, match=says):
        connect(board.place)


def test_a_folder_that_cannot_be_made(board, monkeypatch):
    monkeypatch.setattr(Ssh, "_look", lambda self: ("Linux x86_64", "/proc/nowhere"))
    with pytest.raises(DeviceUnsupportedError, match="folder cannot be made"):
        connect(board.place)


def test_a_board_without_space(made, board, tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here")
    monkeypatch.setattr(Ssh, "_look", lambda self: ("Linux x86_64", str(small)))
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3_000_000))
    try:
        with connect(board.place) as connection, pytest.raises(DeviceFullError) as error:
            connection.push({"big": big}, keep=True)
        assert error.value.lines["expected"] == "3.0 MB"
        assert not list((small / "kept").iterdir())
        assert not list(small.glob("run-*"))
    finally:
        subprocess.run(["umount", small], check=True)
