"""MobileNetV2 and the digits network on every platform: the same ten real pictures, the same answers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from cpp_project import as_ppm, built
from expected import check_rows, classes_of, golden_inputs, golden_outputs

from edgecompile.artifact import load_bundle
from edgecompile.classes import Class
from edgecompile.embedding.identifiers import type_name
from edgecompile.goldens import read_goldens

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MODELS = ("digits", "mobilenet_v2")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundles(cli, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for name in MODELS:
        finished = cli(
            "build", f"{EXAMPLES}/{name}.py:model", "--config", EXAMPLES / f"{name}.toml",
            "--output", folder / name, "--format", "onnx", "--format", "pte",
        )  # fmt: skip
        assert finished.status == 0, finished.err
    return {name: folder / name / "android-arm64" for name in MODELS}


@pytest.fixture(scope="module")
def interpreter(cli, bundles, tmp_path_factory) -> Path:
    """An environment of its own with both packages on ONNX Runtime, as pip installs them."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    for name, bundle in bundles.items():
        assert cli("embed", bundle, "--platform", "python", "-o", folder / name).status == 0
        # Pinned, so that the numbers are of the engine that this was tested with.
        _run(
            sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
            "--constraint", ROOT / "constraints.txt", f"{folder / name}[pictures]",
        )  # fmt: skip
    return python


def _run(*command: object, packages: Path | None = None) -> str:
    # From an empty place: `-m digits` must find what was installed, or lies in `packages`.
    words, environment = [str(word) for word in command], {"PATH": "/usr/bin:/bin"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_no_torch_is_installed(interpreter):
    listed = _run(sys.executable, "-m", "pip", "--python", interpreter, "list", "--format", "json")
    names = {row["name"].lower() for row in json.loads(listed)}
    assert {"digits", "mobilenet-v2", "numpy", "onnxruntime", "pillow"} <= names
    assert not names & {"torch", "executorch", "edgecompile"}


GOLDENS = """
import importlib, sys
import numpy
model = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
numpy.save(sys.argv[4], [model.run(x).output for x in numpy.load(sys.argv[3])])
"""


@pytest.mark.parametrize("format_name", ["onnx", "pte"])
@pytest.mark.parametrize("name", MODELS)
def test_python(cli, request, bundles, pictures_of, tmp_path, name, format_name):
    """ONNX Runtime's package as installed without torch, ExecuTorch's on the engine that is here."""
    bundle = bundles[name]
    if format_name == "onnx":
        python, packages = request.getfixturevalue("interpreter"), None
    else:
        python, packages = Path(sys.executable), tmp_path / "app"
        assert cli("embed", bundle, "--platform", "python", "-o", packages, "--format", "pte").status == 0
    assert "passed" in _run(python, "-m", name, packages=packages)
    inputs, outputs = tmp_path / "inputs.npy", tmp_path / "outputs.npy"
    np.save(inputs, golden_inputs(bundle))
    _run(python, "-c", GOLDENS, name, type_name(name), inputs, outputs, packages=packages)
    assert np.array_equal(np.load(outputs), golden_outputs(bundle, format_name))
    rows = _rows(_run(python, "-m", name, *pictures_of(name), packages=packages))
    check_rows(rows, classes_of(bundle, format_name, pictures_of(name)))


def test_the_digits_are_read(bundles, pictures_of):
    found = classes_of(bundles["digits"], "onnx", pictures_of("digits"))
    names = (EXAMPLES / "digits.labels.txt").read_text().split()
    expected = [names[int(path.stem[-1])] for path in pictures_of("digits")]
    assert [classes[0].label for classes in found] == expected


def _check_first(bundle: Path, found: list[int], wanted: list[tuple[Class, ...]]) -> None:
    """Check the best classes: the second may win where the two are less than one output step apart."""
    step = load_bundle(bundle).manifest.outputs[0].scale
    for index, (first, second, *_) in zip(found, wanted, strict=True):
        # The distance of two outputs is what is left of it after softmax.
        undecided = math.log(first.score / second.score) < step
        assert index == first.index or (undecided and index == second.index)
    assert sum(index == classes[0].index for index, classes in zip(found, wanted, strict=True)) >= 9


@pytest.mark.parametrize("name", MODELS)
def test_both_engines_name_the_same_class_first(bundles, pictures_of, name):
    onnx, pte = (classes_of(bundles[name], each, pictures_of(name)) for each in ("onnx", "pte"))
    _check_first(bundles[name], [classes[0].index for classes in pte], onnx)


def _sqnr_db(signal: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((signal**2).sum() / ((signal - found) ** 2).sum()))


@pytest.mark.parametrize("platform", ["host", "linux-arm64"])
@pytest.mark.parametrize("format_name", ["onnx", "pte"])
@pytest.mark.parametrize("name", MODELS)
def test_cpp(cli, bundles, pictures_of, tmp_path, name, format_name, platform):
    """On the host bit for bit the engine's; on arm64, where its kernels are others, as close to float."""
    bundle = bundles[name]
    finished = cli("embed", bundle, "--platform", "cpp", "-o", tmp_path / "app", "--format", format_name)
    assert finished.status == 0, finished.err
    program = built(tmp_path / "app", name, format_name, platform)
    done, outputs = program.self_test(tmp_path / "outputs")
    assert done.ok, done.stdout + done.stderr
    assert "pictures: bit for bit" in done.stdout
    expected = golden_outputs(bundle, format_name)[:, 0]
    same = np.array_equal(outputs, expected)
    assert same or (platform == "linux-arm64" and format_name == "onnx")
    floats = np.stack([item[0].numpy()[0] for item in read_goldens(load_bundle(bundle))[1]])
    assert abs(_sqnr_db(floats, outputs) - _sqnr_db(floats, expected)) <= 1
    ppm = as_ppm(pictures_of(name), tmp_path)
    rows = _rows(program.run("classify", tmp_path / "app/assets", *ppm).stdout)
    wanted = classes_of(bundle, format_name, pictures_of(name))
    if same:
        check_rows(rows, wanted)
    _check_first(bundle, [row["classes"][0]["index"] for row in rows], wanted)
