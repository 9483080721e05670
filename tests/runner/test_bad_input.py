"""Whatever the runner is given ends in one clear error, and a crash of an engine stays in its process."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgecompile.connections.host import Host
from edgecompile.errors import (
    AlteredFileError,
    EngineFailedError,
    RunnerFailedError,
    RunnerTimedOutError,
)
from edgecompile.process import run_process
from edgecompile.progress import QuietProgress
from edgecompile.run_artifact import run_artifact
from edgecompile.runner_build import built_runner

pytestmark = pytest.mark.usefixtures("host_tools")

FORMATS = ["pte", "ptl", "onnx"]


def _run(item, connection=None, samples=None, **options):
    with connection or Host() as host:
        return run_artifact(
            item.path,
            item.sha256,
            samples or item.samples[:1],
            host,
            engine=item.engine,
            iterations=0,
            **options,
        )


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_artifact_of_another_hash_is_refused(made, suffix):
    item = made[f"int8.{suffix}"]
    with Host() as host, pytest.raises(AlteredFileError, match="SHA-256"):
        run_artifact(item.path, "0" * 64, item.samples, host, engine=item.engine)


# FIPS 180-4's examples: https://csrc.nist.gov/projects/cryptographic-standards-and-guidelines/example-values
FIPS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    b"a" * 1_000_000: "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
}


@pytest.mark.parametrize(("data", "digest"), FIPS.items(), ids=lambda value: f"{len(value)} bytes")
def test_the_runner_hashes_as_the_standard_says(data, digest, tmp_path):
    """With the right hash, in either case, it is the engine that refuses; with another one, the runner."""
    (tmp_path / "model").write_bytes(data)
    runner = built_runner("executorch", "host", QuietProgress())
    other = digest[:-1] + ("1" if digest[-1] == "0" else "0")
    with Host() as host:
        host.push({**runner.files, "model": tmp_path / "model"})
        for given, code, exit_code in (
            (digest, "load-failed", 5),
            (digest.upper(), "load-failed", 5),
            (other, "hash-mismatch", 3),
        ):
            done = host.run([*runner.command, "--model", "model", "--sha256", given], 30)
            assert (done.exit_code, f'"code": "{code}"' in done.stdout) == (exit_code, True)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 119, 120, 1000])
def test_the_runner_hashes_every_length(made, tmp_path, size):
    file = tmp_path / "model.pte"
    file.write_bytes(random.Random(size).randbytes(size))
    with pytest.raises(EngineFailedError):  # the right hash: it is the engine that refuses
        _run(replace(made["int8.pte"], path=file))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "sample",
    [
        (torch.zeros(1, 3, 8, 8),),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64),),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1)),
        (),
    ],
    ids=["shape", "dtype", "one-too-many", "none"],
)
def test_inputs_that_do_not_fit(made, suffix, sample):
    item = made[f"int8.{suffix}"]
    try:
        found = _run(item, samples=[sample])
    except (EngineFailedError, RunnerFailedError) as error:
        assert error.message
    else:  # the lite interpreter checks no shapes: this network pools whatever comes
        assert (suffix, sample[0].shape[-1]) == ("ptl", 8)
        assert found.outputs[0][0].shape == (1, 10)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ((torch.zeros(1, 9),), "of sample 0: .*has 36 bytes, its shape and type need 40"),
        ((torch.zeros(1, 10, dtype=torch.float64),), "has 80 bytes, its shape and type need 40"),
        ((torch.zeros(0),), "has 0 bytes, its shape and type need 40"),
        ((torch.zeros(1, 10), torch.zeros(1)), "the model has 1 outputs, 2 are expected"),
    ],
    ids=["shape", "dtype", "empty", "one-too-many"],
)
def test_goldens_that_do_not_fit(made, suffix, expected, text):
    with pytest.raises(RunnerFailedError, match=text) as error:
        _run(made[f"int8.{suffix}"], expected=[expected])
    assert error.value.exit_status == 6
    assert error.value.lines["found"] == "exit code 7 (golden-unreadable)"


def test_a_crash_is_named_with_the_last_lines(made):
    class Crashing(Host):
        def run(self, argv, timeout_seconds):
            return run_process(["sh", "-c", "echo last words >&2; kill -SEGV $$"], timeout_seconds=9)

    with pytest.raises(RunnerFailedError, match="killed by SIGSEGV") as error:
        _run(made["int8.pte"], Crashing())
    assert error.value.lines["log"] == "last words"
    assert error.value.exit_status == 6


def test_a_runner_that_ends_without_a_report(made):
    class Silent(Host):
        def run(self, argv, timeout_seconds):
            return run_process(["false"], timeout_seconds=9)

    with pytest.raises(RunnerFailedError, match="without a report") as error:
        _run(made["int8.pte"], Silent())
    assert error.value.lines["found"] == "exit code 1"


def test_a_report_that_is_cut_off(made):
    class Truncating(Host):
        def fetch(self, names, folder):
            super().fetch(names, folder)
            for name in names:
                (folder / name).write_bytes((folder / name).read_bytes()[:100])

    with pytest.raises(RunnerFailedError, match="report cannot be read"):
        _run(made["int8.pte"], Truncating())


def test_a_hanging_runner_is_killed_and_its_folder_removed(made):
    host = Host()
    with pytest.raises(RunnerTimedOutError, match="within 1 s") as error:
        _run(made["int8.pte"], host, warmup=1_000_000, timeout_seconds=1)
    assert error.value.exit_status == 6
    assert not host.folder.exists()


def test_a_time_limit_ends_the_whole_process_group(tmp_path: Path):
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    done = run_process(["sh", "-c", script], timeout_seconds=1)
    assert done.timed_out
    pid = (tmp_path / "pid").read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False)
    assert state.stdout.strip()[:1] in ("", "Z")


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        ([], "usage", 2),
        (["--modle", "x"], "usage", 2),
        (["--model"], "usage", 2),
        (["--model", "x", "--iterations", "-1"], "usage", 2),
        (["--model", "x", "--input", "float31:1:f"], "usage", 2),
        (["--model", "x", "--input", "float32:1x:f"], "usage", 2),
        (["--model", "x", "--input", "float32:99999999999999999999:f"], "usage", 2),
        (["--model", "x", "--input", "float32:100000x100000:f"], "usage", 2),
        (["--model", "absent", "--input", "float32:1:absent"], "input-unreadable", 7),
        (["--model", "absent", "--sha256", "0" * 64], "model-unreadable", 3),
        (["--model", ".", "--sha256", "0" * 64], "model-unreadable", 3),
        (["--model", "absent", "--sha256", ""], "usage", 2),
        (["--model", "absent", "--sha256", "0" * 63], "usage", 2),
        (["--model", "absent", "--sha256", "0" * 65], "usage", 2),
        (["--model", "absent", "--sha256", "0" * 63 + "g"], "usage", 2),
        (["--model", "absent", "--cpus", "4096"], "affinity-failed", 2),
        (["--model", "absent"], "load-failed", 5),
    ],
)
def test_the_command_line(arguments, code, exit_code):
    runner = built_runner("executorch", "host", QuietProgress())
    with Host() as host:
        host.push(runner.files, keep=True)
        done = host.run([*runner.command, *arguments], 30)
    assert done.exit_code == exit_code
    assert f'"code": "{code}"' in done.stdout
    assert f"error[{code}]" in done.stderr
