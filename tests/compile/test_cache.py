"""Builds on a cache: what is reused, what runs again after each kind of change, and what may go wrong."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import networks
import psutil
import pytest

from edgecompile import shipped
from edgecompile.artifact import load_bundle
from edgecompile.lower import lower_all, workers_for
from edgecompile.progress import QuietProgress
from edgecompile.settings import BuildSettings
from edgecompile.stage_cache import StageCache
from edgecompile.stages.captured import captured_program
from edgecompile.stages.emitted import Lowering
from edgecompile.stages.in_float import float_program
from edgecompile.stages.quantized import quantized_program
from edgecompile.target import load_target

MODEL = """
import os
from pathlib import Path
import torch
from layers import layer

def make():
    torch.manual_seed(int(os.environ.get("SEED_OF_TEST", "0")))
    net = torch.nn.Sequential(layer(3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 4))
    weights = Path(__file__).with_name("weights.pt")
    if weights.exists():
        net.load_state_dict(torch.load(weights))
    return net, torch.zeros(1, 3, 8, 8)

def data():
    generator = torch.Generator().manual_seed(3)
    for _ in range(16):
        yield torch.rand(1, 3, 8, 8, generator=generator)
"""
LAYERS = """
import torch

def layer(channels):
    return torch.nn.Conv2d(channels, 4, 3, padding=1)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A model of two files, a cache of its own, and the command line in fresh processes."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "layers.py").write_text(LAYERS)
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEED_OF_TEST", raising=False)
    return tmp_path


def command(project, *options):
    model = f"{project}/model.py"
    given = ["build", f"{model}:make", "--calibration", f"{model}:data", "--output", f"{project}/out"]
    targets = () if "--target" in options else ("--target", "linux-arm64")
    return [sys.executable, "-m", "edgecompile.cli.main", *given, *targets, "--format", "ptl", *options]


def built(project, *options, **keywords):
    done = subprocess.run(command(project, *options), capture_output=True, text=True, check=False, **keywords)
    assert done.returncode == 0, done.stderr
    return done.stderr


def artifact(project, target="linux-arm64"):
    bundle = load_bundle(project / "out" / target)
    bundle.verify()
    return bundle.artifacts[0].sha256


def ran(said):
    """Return the stages that ran, from the progress lines."""
    lines = [re.fullmatch(r"(.+) … [\d.]+ s(?:  (.*))?", line) for line in said.splitlines()]
    return [
        line[1]
        for line in lines
        if line and "reused" not in (line[2] or "") and "up to date" not in (line[2] or "")
    ]


def test_nothing_changed_nothing_runs_and_torch_is_not_imported(project):
    assert "capture" in ran(built(project))
    first = artifact(project)
    assert ran(built(project)) == []
    script = "import sys; from edgecompile.cli.main import main; main(); print('torch' in sys.modules)"
    words = command(project)[3:]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    shutil.rmtree(project / "out")
    assert ran(built(project)) == ["write linux-arm64"]
    assert artifact(project) == first


def test_a_damaged_bundle_is_written_again(project):
    built(project)
    (project / "out/linux-arm64/model.ptl").write_bytes(b"damaged")
    assert ran(built(project)) == ["write linux-arm64"]
    artifact(project)


def train(project):
    code = f"import sys; sys.path.insert(0, {str(project)!r})\n"
    code += "import model, torch; net, _ = model.make(); torch.nn.init.normal_(net[0].weight)\n"
    code += f"torch.save(net.state_dict(), {str(project / 'weights.pt')!r})"
    subprocess.run([sys.executable, "-c", code], check=True)


CHANGES = {
    "the model file": lambda project, environment: (project / "model.py").write_text(
        MODEL.replace("Linear(256, 4)", "Linear(256, 5)")
    ),
    "a module that it imports": lambda project, environment: (project / "layers.py").write_text(
        LAYERS.replace("4, 3, padding=1", "4, 3, padding=1, bias=False")
    ),
    "weights that appear": lambda project, environment: train(project),
    "a variable": lambda project, environment: environment.update(SEED_OF_TEST="5"),
    "the data": lambda project, environment: (project / "model.py").write_text(
        MODEL.replace("manual_seed(3)", "manual_seed(4)")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_the_functions_read_is_never_missed(project, change):
    built(project)
    earlier = artifact(project)
    environment = dict(os.environ)
    CHANGES[change](project, environment)
    said = built(project, env=environment)
    assert "emit ptl" in ran(said) and artifact(project) != earlier
    fresh = artifact(project)
    built(project, "--no-cache", env=environment)
    assert artifact(project) == fresh


def test_what_the_users_code_keeps_from_call_to_call_is_noticed(project):
    """The data function gets the file from a cache of its own: only the model function is seen to read it."""
    rows = "    return float(Path(__file__).with_name('scale').read_text())"
    code = "import functools\n" + MODEL.replace("def make():", "def make():\n    rows()")
    code = code.replace("def data():", f"@functools.cache\ndef rows():\n{rows}\n\ndef data():")
    code = code.replace("yield torch", "yield rows() * torch")
    (project / "model.py").write_text(code)
    (project / "scale").write_text("1")
    built(project)
    earlier = artifact(project)
    (project / "scale").write_text("9")
    built(project)
    assert artifact(project) != earlier


def test_a_comment_runs_the_capture_alone(project):
    built(project)
    (project / "model.py").write_text(MODEL.replace("layer(3)", "layer(3)", 1) + "# nothing\n")
    assert ran(built(project)) == ["capture"]


def test_an_option_of_one_target_runs_what_depends_on_it_alone(project, monkeypatch):
    """The changed files are a copy; the command line finds them as in a checkout."""
    root = project / "tool"
    shutil.copytree(shipped.targets_folder().parent / "edgecompile", root / "edgecompile")
    for folder in (shipped.targets_folder(), shipped.device_profiles_folder(), shipped.runners_folder()):
        shutil.copytree(folder, root / folder.name)
    environment = dict(os.environ) | {"PYTHONPATH": str(root)}
    options = ["--format", "onnx", "--target", "linux-arm64", "--target", "linux-x86-64", "--jobs", "1"]
    built(project, *options, env=environment, cwd=root)
    target = root / "targets/linux-x86-64.toml"
    target.write_text(target.read_text().replace("[emit.onnx]\n", "[emit.onnx]\nopset = 21\n"))
    said = built(project, *options, env=environment, cwd=root)
    assert ran(said)[:1] == ["emit onnx"]
    assert ran(said)[1:] == [
        "run onnx",
        "goldens and report of linux-x86-64",
        "write linux-x86-64",
    ]
    defaults = root / "targets/_defaults.toml"
    defaults.write_text(defaults.read_text().replace("layer_samples = 4", "layer_samples = 3"))
    said = built(project, *options, env=environment, cwd=root)
    assert ran(said)[:2] == ["passes for linux-arm64", "layers of linux-arm64"]
    assert all(stage.startswith(("goldens", "write")) for stage in ran(said)[2:])
    defaults.write_text(defaults.read_text().replace("bias_correction = true", "bias_correction = false"))
    said = built(project, *options, env=environment, cwd=root)
    assert "capture" not in ran(said) and "calibrate" not in ran(said) and "emit ptl" in ran(said)


def test_the_plan_says_what_would_be_reused(project, cli):
    options = command(project)[3:]
    before = json.loads(cli(*options, "--plan", "--json").out)["stages"]
    assert [row["reused"] for row in before] == [False] * len(before) and before[0]["stage"] == "capture"
    assert not (project / "out").exists()
    built(project)
    after = json.loads(cli(*options, "--plan", "--json").out)["stages"]
    assert after and all(row["reused"] for row in after)
    quantized = json.loads(cli(*options, "--precision", "fp32", "--plan", "--json").out)["stages"]
    assert [row["reused"] for row in quantized][:2] == [True, True]
    assert not quantized[2]["reused"]
    assert json.loads(cli(*options, "--no-cache", "--plan", "--json").out)["stages"] == []


@pytest.mark.parametrize("suffix", [".json", ".data"])
def test_damaged_entries_are_made_again_with_a_note(project, suffix):
    built(project)
    first = artifact(project)
    for index, file in enumerate(sorted((project / "cache/stages").rglob(f"*{suffix}"))):
        file.write_bytes(file.read_bytes()[: index * 7] if index % 2 else b"\0" * 9)
    shutil.rmtree(project / "out")
    said = built(project)
    assert "cannot be read" in said and "Traceback" not in said
    assert artifact(project) == first
    assert ran(built(project)) == []


def test_a_cache_that_cannot_be_written_costs_one_warning(project, monkeypatch):
    (project / "file").write_text("mine")
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(project / "file"))
    said = built(project)
    assert said.count("goes on without it") == 1 and said.count("note:") == 1
    assert "capture" in ran(built(project))
    artifact(project)


def test_a_full_disk_under_the_cache(project):
    if shutil.which("unshare") is None:
        pytest.skip("`unshare` is not installed")
    cache = project / "cache"
    cache.mkdir()
    mount = f"mount -t tmpfs -o size=8k none '{cache}'"
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-ec"]
    if subprocess.run([*namespace, mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    script = f"{mount}; {' '.join(command(project))}"
    done = subprocess.run([*namespace, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the cache cannot be written (No space left on device") == 1
    artifact(project)


def test_two_builds_of_the_same_at_once(project):
    builds = [
        subprocess.Popen(command(project), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in builds]
    assert [process.returncode for process in builds] == [0, 0], said
    assert sorted("emit ptl" in ran(text) for text in said) == [False, True], said
    artifact(project)
    assert [path.name for path in (project / "out").iterdir()] == ["linux-arm64"]
    assert not [*(project / "cache").rglob("*.partial"), *(project / "cache").rglob("*.lock")]


def test_no_cache_keeps_nothing(project, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(project / "tmp"))
    (project / "tmp").mkdir()
    assert "capture" in ran(built(project, "--no-cache"))
    assert not (project / "cache").exists() and not list((project / "tmp").glob("edgecompile-*"))


def test_a_model_that_starts_a_process_is_captured_in_every_build(project):
    (project / "model.py").write_text(MODEL.replace("def make():", "def make():\n    os.system('true')"))
    assert "captured anew in every build: it starts another process" in built(project)
    said = built(project)
    assert ran(said) == ["capture"]  # and what depends on it is reused


@pytest.fixture
def lowerings(tmp_path):
    cache = StageCache(tmp_path, QuietProgress())
    settings = BuildSettings(model=f"{networks.__file__}:small", targets=("linux-arm64",), precision="fp32")
    target = load_target("linux-arm64")
    captured = captured_program(cache, settings)
    in_float = float_program(cache, captured, calibration=None, target=target, precision="fp32")
    program = quantized_program(cache, in_float, calibration=None, target=target, precision="fp32")
    wanted = [Lowering(program=program, format=name, settings=target.emit[name]) for name in ("ptl", "onnx")]
    return cache, captured, wanted


def test_a_worker_lowers_what_this_process_would(lowerings):
    cache, captured, wanted = lowerings
    with workers_for(cache, ["torchscript-lite", "onnx"], captured, jobs=2) as workers:
        assert [worker.emitter for worker in workers] == ["onnx"]
        ((_, onnx),) = lower_all(cache, [wanted], workers)
    assert not onnx.is_new  # found in the cache, where the worker left it
    cache.forget("emit", onnx.key)
    ((_, own),) = lower_all(cache, [wanted], [])
    assert own.is_new and own.digest == onnx.digest
    assert all(worker.process.poll() is not None for worker in workers)


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_killed_worker_costs_time_only(lowerings, moment):
    cache, captured, wanted = lowerings
    with workers_for(cache, ["torchscript-lite", "onnx"], captured, jobs=2) as workers:
        (worker,) = workers
        if moment == "before":
            worker.process.kill()
        else:
            os.kill(worker.process.pid, signal.SIGSTOP)  # it has the job and will never answer
            cache.progress.finish = lambda detail="": worker.process.kill()  # when ptl is done
        ((_, onnx),) = lower_all(cache, [wanted], workers)
    assert onnx.is_new and onnx.value().format == "onnx"


def is_worker(process):
    with contextlib.suppress(psutil.Error):
        return "edgecompile.lower_worker" in process.cmdline()
    return False


def test_workers_end_with_a_killed_build(project):
    process = subprocess.Popen(
        command(project, "--format", "onnx", "--jobs", "2"), stderr=subprocess.PIPE, text=True
    )
    found = []
    ends = time.monotonic() + 60
    while not found and time.monotonic() < ends:
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        found = [int(line.split()[0]) for line in listed.stdout.splitlines() if "lower_worker" in line]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert found
    while psutil.pid_exists(found[0]) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not psutil.pid_exists(found[0])
