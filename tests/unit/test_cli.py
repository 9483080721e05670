import importlib
import json
import os
import re
import signal
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from edgecompile import __version__, shipped
from edgecompile.cli.main import COMMANDS, main
from edgecompile.target import target_names


@pytest.fixture
def model(tmp_path, targets_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(): ...\n")
    return "net.py:make"


@pytest.fixture
def stub(monkeypatch):
    """Puts a function in the place of a module that the command imports."""

    def put(module, name, function):
        replacement = ModuleType(module)
        setattr(replacement, name, function)
        monkeypatch.setitem(sys.modules, module, replacement)

    return put


def _build(model, *more):
    return main(["build", model, "--target", "linux-arm64", "--precision", "fp32", *more])


@pytest.mark.parametrize("arguments", [["--help"], [], ["build", "--help"], ["passes"], ["--version"]])
def test_answers_without_heavy_imports(arguments):
    code = (
        "import sys; from edgecompile.cli.main import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'pydantic', 'numpy', 'rich'} & set(sys.modules);"
        "sys.exit(status or (repr(heavy) if heavy - ({'rich'} if 'passes' in sys.argv else set()) else 0))"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_shared_options(command, capsys):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--json" in printed and "--traceback" in printed


def test_version_and_bare_call(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgecompile {__version__}\n"
    assert main([]) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["biuld"], "there is no command 'biuld'", "did you mean 'build'?"),
        (["--verson"], "there is no option '--verson'", "did you mean '--version'?"),
        (["build", "--taget", "x"], "there is no option '--taget'", "did you mean '--target'?"),
        (["build"], "Missing argument 'MODEL'", "`edgecompile build --help`"),
        (["build", "x", "--target"], "Option '--target' requires an argument", "build --help"),
        (
            ["build", "x", "--precision", "int4"],
            "'int4' is not one of 'int8', 'int8-dynamic',",
            "build --help",
        ),
        (["build", "x", "--quantization", "bits"], "'bits' is not KEY=VALUE", "build --help"),
        (["build", "x", "--quantization", "=8"], "'=8' is not KEY=VALUE", "build --help"),
        (["validate", "x", "--on", "emulater"], "there is no place 'emulater'", "did you mean 'emulator'?"),
        (["devices", "pixel-6", "--attached"], "--attached lists what adb sees", "--on adb:SERIAL"),
        (["targets", "a", "b"], "unexpected extra argument", "targets --help"),
    ],
)
def test_usage_errors_have_our_shape(arguments, message, hint, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error[usage]: ")
    assert message in printed.err and hint in printed.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["targets", "android-arm46"], "unknown-target"),
        (["build", "net.py:make", "--target", "x", "--precision", "fp32"], "unknown-target"),
        (["build", "net.py", "--target", "linux-arm64", "--precision", "fp32"], "invalid-model-spec"),
        (["build", "no.py:make", "--target", "linux-arm64", "--precision", "fp32"], "model-not-found"),
        (["build", "net.py:make", "--target", "linux-arm64"], "calibration-required"),
        (["build", "net.py:make", "--target", "linux-arm64", "--calibration", "no"], "unreadable-data"),
        (
            ["build", "net.py:make", "--target", "linux-arm64", "--precision", "int4-weights"],
            "unsupported-precision",
        ),
        (["build", "net.py:make", "--precision", "fp32"], "usage"),
        (["build", "net.py:make", "--target", "linux-arm64", "--config", "no.toml"], "configuration"),
    ],
)
def test_configuration_errors(arguments, code, model, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    if code != "configuration":
        assert printed.err.startswith(f"error[{code}]: ")
    else:
        assert "error[invalid-config]: " in printed.err and "error[calibration-required]: " in printed.err


def test_more_configuration_errors(model, targets_folder, capsys):
    assert _build(model, "--format", "tflite") == 2
    assert "error[unknown-format]: there is no format 'tflite'" in capsys.readouterr().err
    assert _build(model, "--output", "net.py") == 2
    assert "error[output-not-writable]" in capsys.readouterr().err
    path = targets_folder / "linux-arm64.toml"
    path.write_text(path.read_text() + 'passes = [{name = "fold-everything", reason = "r"}]')
    assert _build(model) == 2
    assert "error[unknown-pass]: there is no pass 'fold-everything'" in capsys.readouterr().err
    path.write_text("descripton = 3")
    assert _build(model) == 2
    assert "error[invalid-target]: unknown key 'descripton'" in capsys.readouterr().err


def test_build_prints_each_report(model, stub, capsys):
    def build(settings, progress):
        progress.start("capture", total=2)
        progress.advance()
        progress.finish("3 nodes")
        return tuple(
            SimpleNamespace(report_text=lambda name=name: f"report {name}", report_dict=lambda: {"a": 1})
            for name in settings.targets
        )

    stub("edgecompile.compile", "build", build)
    assert _build(model) == 0
    printed = capsys.readouterr()
    assert printed.out == "report linux-arm64\n"
    assert printed.err == "capture … 0.0 s  3 nodes\n"
    assert _build(model, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"bundles": [{"a": 1}]}


def test_plan_builds_nothing(model, stub, capsys):
    stub("edgecompile.compile", "plan", lambda settings: [("capture", True), ("emit pte", False)])
    said = SimpleNamespace(text=lambda width: "coverage of it", to_dict=lambda: {"operators": 3})
    stub("edgecompile.foresee", "foresee", lambda settings, progress: (said,))
    assert _build(model, "--plan", "--dynamic-batch") == 0
    printed = capsys.readouterr().out
    assert printed.endswith("\ncoverage of it\n")
    assert "flag --dynamic-batch" in printed and "target _defaults.toml" in printed
    assert re.search(r"capture +reused\nemit pte +runs", printed)
    assert _build(model, "--plan", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {"name": "precision", "value": "fp32", "origin": "flag --precision"} in document["plan"]
    assert document["stages"][0] == {"stage": "capture", "reused": True}
    assert document["coverage"] == [{"operators": 3}]


def test_quantization_takes_numbers_booleans_and_words(model, stub, capsys):
    stub("edgecompile.compile", "plan", lambda settings: [])
    stub("edgecompile.foresee", "foresee", lambda settings, progress: ())
    said = {
        "weight_bits": 7,
        "activation_percentile": 99.5,
        "power_of_two_scales": True,
        "weight_observer": "mse",
    }
    words = [word for key, value in said.items() for word in ("--quantization", f"{key}={_word(value)}")]
    assert _build(model, "--plan", "--json", "--quantization", "weight_bits=3", *words) == 0
    rows = json.loads(capsys.readouterr().out)["plan"]
    for place in ("", "linux-arm64: "):
        found = {row["name"]: (row["value"], row["origin"]) for row in rows}
        for key, value in said.items():
            assert found[f"{place}quantization.{key}"] == (value, "flag --quantization")
    assert _build(model, "--plan", "--quantization", "weight_bit=7") == 2
    printed = capsys.readouterr().err
    assert "error[invalid-quantization]: unknown key 'weight_bit'" in printed
    assert "did you mean 'weight_bits'?" in printed


def _word(value):
    return value if isinstance(value, str) else json.dumps(value)


def test_all_targets(model, stub, capsys):
    stub("edgecompile.compile", "plan", lambda settings: [])
    stub("edgecompile.foresee", "foresee", lambda settings, progress: ())
    arguments = ["build", model, "--precision", "fp32", "--all-targets", "--plan", "--json"]
    assert main(arguments) == 0
    values = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)["plan"]}
    assert values["target"] == list(target_names())
    assert main([*arguments, "--device", "pixel-8"]) == 2
    assert "--all-targets leaves nothing for --device to say" in capsys.readouterr().err


def test_an_interrupt_that_a_callback_drops_is_raised_again():
    """In a process of its own: the signal's handler and the hook are the whole process's."""
    script = (
        "import signal, sys, time, weakref\n"
        "from edgecompile.cli.main import _terminable\n"
        "class Thing: pass\n"
        "thing = Thing()\n"
        "watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))\n"
        "try:\n"
        "    with _terminable():\n"
        "        del thing\n"
        "        print('dropped', flush=True)\n"
        "        time.sleep(20)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["dropped", "raised"], "")


def test_cache_show_and_clear(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path))
    for name in ("runners/one/program", "stages/capture/k.json", "stages/capture/k.data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 500_000)
    assert main(["cache", "show"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"capture +1 +1\.0 MB", printed) and f"{tmp_path}, at most 10 GB" in printed
    assert main(["cache", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["kinds"]
    assert kinds["runners"] == {"count": 1, "size_bytes": 500_000}
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed_bytes"] == 1_500_000
    assert main(["cache", "clear"]) == 0
    assert "removed 0.0 MB" in capsys.readouterr().out
    assert main(["cache", "empty"]) == 2


def test_validate_prints_the_table_and_fails(stub, capsys):
    seen = {}

    def validate(path, *, layers, connection, public_keys, progress):
        seen.update(path=path, layers=layers, connection=connection, public_keys=public_keys)
        return SimpleNamespace(passed=seen["path"].name == "good", text=lambda: "table", to_dict=dict)

    stub("edgecompile.validate", "validate", validate)
    assert main(["validate", "good", "--on", "host", "--public-key", "a.pem", "--public-key", "b.pem"]) == 0
    assert seen["layers"] is True
    assert [path.name for path in seen["public_keys"]] == ["a.pem", "b.pem"]
    assert seen["connection"].platform == "host"
    assert main(["validate", "bad", "--no-layers"]) == 4
    assert (seen["layers"], seen["connection"]) == (False, None)
    printed = capsys.readouterr()
    assert printed.out == "table\ntable\n"
    assert printed.err.startswith("error[validation-failed]: 'bad'")
    assert main(["validate", "bad", "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == {}


def test_inspect_prints(stub, capsys):
    inspection = SimpleNamespace(text=lambda **said: str(said), to_dict=lambda: {"a": 1})
    asked = []
    stub("edgecompile.inspect_artifact", "inspect", lambda path, **said: asked.append(said) or inspection)
    assert main(["inspect", "x", "--layers"]) == 0
    assert capsys.readouterr().out == "{'layers': True, 'width': 110}\n"
    assert main(["inspect", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    others = {"sensitivity": False, "why_not": False, "measured": ()}
    assert asked == [{"layers": layers, **others} for layers in (True, False)]


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("boom [x]"), 70, "internal"),
        (SystemExit(0), 70, "internal"),
    ],
)
def test_what_a_command_raises(raised, status, code, stub, capsys):
    def inspect(path, **said):
        raise raised

    stub("edgecompile.inspect_artifact", "inspect", inspect)
    assert main(["inspect", "x"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith(f"error[{code}]: ")
    assert "Traceback" not in printed
    assert main(["inspect", "x", "--traceback"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and f"error[{code}]: " in printed
    assert main(["--traceback", "inspect", "x"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_termination_signal_unwinds(stub, capsys):
    before = signal.getsignal(signal.SIGTERM)
    unwound = []

    def inspect(path, **said):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)

    stub("edgecompile.inspect_artifact", "inspect", inspect)
    assert main(["inspect", "x"]) == 130
    assert unwound and signal.getsignal(signal.SIGTERM) is before
    assert "error[interrupted]" in capsys.readouterr().err


def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m edgecompile.cli.main --help | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_targets(targets_folder, capsys):
    assert main(["targets"]) == 0
    printed = capsys.readouterr().out
    assert all(path.stem in printed for path in shipped.targets_folder().glob("[!_]*.toml"))
    assert main(["targets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["targets"]
    assert main(["targets", "ios-arm64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) in listed
    assert main(["targets", "ios-arm64"]) == 0
    printed = capsys.readouterr().out
    assert "dropout, identities" in printed and "quantization.weight_bits" in printed


def test_passes(capsys):
    assert main(["passes"]) == 0
    assert "fold-batchnorm" in capsys.readouterr().out
    assert main(["passes", "--json"]) == 0
    passes = json.loads(capsys.readouterr().out)["passes"]
    assert all(entry["name"] and entry["summary"] for entry in passes)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_its_own_file(command):
    assert importlib.import_module(f"edgecompile.cli.{command}").command.name == command
