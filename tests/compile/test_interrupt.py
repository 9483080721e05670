"""What stops a build from outside: signals at every stage, and output folders that cannot be written.

Each time an earlier good bundle stays as it was, and nothing half-written is left beside it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import networks
import pytest

from edgecompile import bundle_writer
from edgecompile.bundle_writer import replaced_folder
from edgecompile.errors import OutputNotWritableError

NETWORKS = networks.__file__

# A shell's background job ignores interrupts, and what it starts does too.
HEEDING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from edgecompile.cli.main import main
sys.exit(main())
"""

# Builds once, then forks for each line of stdin: a real process for every build, and torch imported once.
FORKER = """
import json, os, signal, sys
from edgecompile.cli.main import main
import edgecompile.emitters.executorch, edgecompile.emitters.onnx, executorch.exir
signal.signal(signal.SIGINT, signal.default_int_handler)
assert main(json.loads(sys.stdin.readline())) == 0
print("ready", flush=True)
for line in sys.stdin:
    arguments, log = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
        status = main(arguments)
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def _build(network, data, *options):
    return [
        "build",
        f"{NETWORKS}:{network}",
        "--target",
        "ios-arm64",
        "--calibration",
        f"{NETWORKS}:{data}",
        "--no-cache",
        "--jobs=1",
        *options,
    ]


def _contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def forker(tmp_path_factory):
    output = tmp_path_factory.mktemp("interrupted")
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a fork has none of the threads that its parent waits for
    )
    first = _build("small", "pictures", "--format", "ptl", "--output", str(output), "--json")
    _send(process, first)
    while process.stdout.readline() not in ("ready\n", ""):
        pass
    yield process, output
    process.stdin.close()
    process.wait(60)


def _send(process, document):
    process.stdin.write(json.dumps(document) + "\n")
    process.stdin.flush()


def _wait_for(said, log, deadline=60.0):
    ends = time.monotonic() + deadline
    while time.monotonic() < ends:
        if log.exists() and said in log.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"{said!r} was not said: {log.read_text()}")


STAGES = {  # network, data, format, what is said before the stage, seconds into the stage
    "model-function": ("sleepy_function", "pictures", "ptl", "asleep", 0.0),
    "capture": ("sleepy_module", "pictures", "ptl", "asleep", 0.0),
    "passes": ("small", "pictures", "ptl", "capture …", 0.0),
    "calibrate": ("large", "large_pictures", "ptl", "passes for", 0.3),
    "emit-pte": ("small", "pictures", "pte", "calibrate …", 0.1),
    "emit-onnx": ("small", "pictures", "onnx", "calibrate …", 0.3),
    "run": ("large", "large_pictures", "ptl", "reference …", 0.0),
    "write": ("large", "large_pictures", "ptl", "run ptl …", 0.0),
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        *((stage, signal.SIGINT) for stage in STAGES),
        ("capture", signal.SIGTERM),
        ("emit-onnx", signal.SIGTERM),
        ("write", signal.SIGTERM),
    ],
)
def test_a_signal_at_any_stage(forker, tmp_path, stage, number):
    process, output = forker
    network, data, format_name, said, seconds = STAGES[stage]
    earlier = _contents(output)
    log = tmp_path / "log"
    _send(process, [_build(network, data, "--format", format_name, "--output", str(output)), str(log)])
    child = int(process.stdout.readline())
    _wait_for(said, log)
    time.sleep(seconds)
    os.kill(child, number)
    status = int(process.stdout.readline())
    assert (status, "error[interrupted]" in log.read_text()) == (130, True), log.read_text()
    assert "Traceback" not in log.read_text()
    assert earlier and _contents(output) == earlier
    assert [path.name for path in output.iterdir()] == ["ios-arm64"]


def test_a_signal_while_the_libraries_load(tmp_path):
    command = [sys.executable, "-c", HEEDING, *_build("small", "pictures", "--output", str(tmp_path / "out"))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.partition("\n")[0]) == (130, "error[interrupted]: interrupted"), said
    assert not (tmp_path / "out").exists()


def _interrupt_at(step):
    """Trace bundle_writer and raise KeyboardInterrupt before its n-th line, as a signal could."""
    steps = iter(range(step + 1))

    def trace(frame, event, _):
        if frame.f_code.co_filename != bundle_writer.__file__:
            return None
        if event == "line" and next(steps, None) == step:
            raise KeyboardInterrupt
        return trace

    return trace


def test_an_interrupt_at_any_line_of_the_swap_keeps_one_whole_bundle(tmp_path):
    final = tmp_path / "target"
    finished = 0
    for step in range(60):
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir()
        (final / "manifest.json").write_text("earlier")
        before = sys.gettrace()
        sys.settrace(_interrupt_at(step))
        try:
            with replaced_folder(final) as folder:
                (folder / "manifest.json").write_text("later")
            finished += 1
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        kept = (final / "manifest.json").read_text()
        assert kept in ("earlier", "later"), step
        if finished:
            assert [path.name for path in tmp_path.iterdir()] == ["target"] and kept == "later"
            break
    assert finished and step > 10


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    for name in (f".target.{os.getpid()}.partial", ".target.1.partial", ".target.1.earlier"):
        (tmp_path / name / "goldens").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    with replaced_folder(tmp_path / "target") as folder:
        (folder / "manifest.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nowhere"])
def test_an_output_folder_that_cannot_be(cli, tmp_path, output):
    (tmp_path / "file").write_text("mine")
    arguments = ["build", f"{NETWORKS}:small", "--target", "ios-arm64", "--format", "ptl"]
    finished = cli(*arguments, "--precision", "fp32", "--output", tmp_path / output)
    assert finished.status == 2 and "error[output-not-writable]" in finished.err
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_becomes_unwritable_while_building(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputNotWritableError), replaced_folder(tmp_path / "file" / "target"):
        raise AssertionError("the folder cannot be made")


def test_disk_full(tmp_path):
    """A tmpfs of 64 KB in a mount namespace of the build's own holds the earlier bundle, not a second one."""
    if shutil.which("unshare") is None:
        pytest.skip("`unshare` is not installed")
    mount = f"mount -t tmpfs -o size=64k none '{tmp_path}'"
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-ec"]
    if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    earlier = tmp_path / "ios-arm64"
    keep = f"mkdir '{earlier}'; echo '{{}}' > '{earlier}/manifest.json'"
    command = [*_build("small", "pictures", "--format", "ptl"), "--output", str(tmp_path)]
    script = f"{mount}; {keep}; {sys.executable} -m edgecompile.cli.main {' '.join(command)} || echo $?"
    show = f"ls -A '{tmp_path}'; cat '{earlier}/manifest.json'"
    finished = subprocess.run([*namespace, f"{script}; {show}"], capture_output=True, text=True, check=False)
    assert finished.stdout.split() == ["2", "ios-arm64", "{}"], finished.stderr
    assert "error[disk-full]: the disk is full" in finished.stderr and "Traceback" not in finished.stderr
