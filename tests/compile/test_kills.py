"""A build that is killed outright, at any moment: the next one is right, and nothing is left over."""

import os
import random
import signal
import subprocess
import sys
import time

import networks
import pytest

from edgecompile.artifact import load_bundle

KILLS = 20
NETWORKS = networks.__file__


def command(folder):
    model = ["build", f"{NETWORKS}:small", "--calibration", f"{NETWORKS}:pictures"]
    options = ["--target", "linux-x86-64", "--jobs", "2", "--output", str(folder / "out")]
    return [sys.executable, "-m", "edgecompile.cli.main", *model, *options]


def environment(folder):
    places = {"EDGECOMPILE_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    return os.environ | places


def artifacts(folder):
    bundle = load_bundle(folder / "out" / "linux-x86-64")
    bundle.verify()
    return {artifact.format: artifact.sha256 for artifact in bundle.artifacts}


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    started = time.monotonic()
    subprocess.run(command(whole), env=environment(whole), capture_output=True, check=True)
    seconds = time.monotonic() - started
    expected = artifacts(whole)
    moments = random.Random(0)
    ended_early = 0
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:  # an earlier good bundle must not be lost either
            subprocess.run(["cp", "-r", whole / "out", folder / "out"], check=True)
        process = subprocess.Popen(command(folder), env=environment(folder), stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        ended_early += process.wait() == -signal.SIGKILL
        if number % 2:
            assert artifacts(folder) == expected, number
        done = subprocess.run(
            command(folder), env=environment(folder), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert artifacts(folder) == expected, number
        assert [path.name for path in (folder / "out").iterdir()] == ["linux-x86-64"], number
        left = [path.name for path in (folder / "cache").rglob("*") if path.suffix in (".partial", ".lock")]
        left += [path.name for path in (folder / "tmp").iterdir() if path.name.startswith("edgecompile")]
        assert not left, (number, left)
    assert ended_early > KILLS / 2  # most were in the midst of it
