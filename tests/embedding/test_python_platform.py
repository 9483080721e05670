"""The platform python: projects that are really installed and run, without edgecompile."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from expected import check_rows, classes_of, golden_inputs, golden_outputs
from signed_bundles import check_outcomes, offers


def python(folder, *arguments, interpreter=sys.executable):
    """Run an interpreter that sees a project, and neither this checkout nor what the user has set."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [str(interpreter), *map(str, arguments)], capture_output=True, text=True, check=False,
        env=environment, cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="session", params=["onnx", pytest.param("pte", marks=pytest.mark.slow)])
def project(request, cli, small_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "app"
    finished = cli("embed", small_bundle, "--platform", "python", "-o", folder, "--format", request.param)
    assert finished.status == 0, finished.err
    return folder


def test_the_self_test_passes_and_needs_the_engine_only(project):
    done = python(project, "-m", "small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pictures: bit for bit" in done.stdout
    imported = "import sys, small; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    modules = python(project, "-c", imported).stdout.split()
    assert "edgecompile" not in modules
    assert ("torch" in modules) == (project.parent.name.startswith("pte"))


@pytest.fixture
def format_name(project):
    return project.parent.name.rstrip("0123456789")


def test_its_outputs_are_the_engines_bit_for_bit(project, format_name, small_bundle):
    np.save(project.parent / "inputs.npy", golden_inputs(small_bundle))
    code = (
        "import numpy, small; model = small.Small(); "
        "outputs = [model.run(x).output for x in numpy.load('../inputs.npy')]; "
        "numpy.save('../outputs.npy', outputs)"
    )
    done = python(project, "-c", code)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(project.parent / "outputs.npy"), golden_outputs(small_bundle, format_name))


def test_pictures_become_the_references_classes(project, format_name, small_bundle, pictures):
    done = python(project, "-m", "small", *pictures)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    check_rows(rows, classes_of(small_bundle, format_name, pictures))


def test_an_altered_artifact_is_refused(project, tmp_path):
    artifact = next((project / "small/assets").glob("small.*"))
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    altered = tmp_path / "altered"
    altered.write_bytes(data)
    done = python(project, "-c", f"import pathlib, small; small.Small(pathlib.Path({str(altered)!r}))")
    assert done.returncode == 1
    assert "AlteredArtifactError" in done.stderr


LOADED = """
import json, numpy, pathlib, sys
from small import Small
inputs = numpy.load(sys.argv[1])
for path in sys.argv[2:]:
    try:
        model = Small(pathlib.Path(path))
        print(json.dumps(["taken", [model.run(x).output.tolist() for x in inputs]]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""
OUTCOMES = {
    "taken": "taken",
    "InvalidSignatureError": "bad signature",
    "AlteredArtifactError": "bad artifact",
    "FileNotFoundError": "unreadable",
}


def test_only_what_is_signed_is_loaded(project, cli, format_name, signed_bundle, tmp_path):
    app = tmp_path / "app"
    finished = cli(
        "embed", signed_bundle.path, "--platform", "python", "-o", app, "--format", format_name,
        "--public-key", signed_bundle.public_key,
    )  # fmt: skip
    assert finished.status == 0, finished.err
    assert "cryptography" in (app / "pyproject.toml").read_text()
    assert "cryptography" not in (project / "pyproject.toml").read_text()
    assert python(app, "-m", "small").returncode == 0
    offered = offers(signed_bundle, format_name, tmp_path)
    np.save(tmp_path / "inputs.npy", golden_inputs(signed_bundle.path))
    done = python(app, "-c", LOADED, tmp_path / "inputs.npy", *[item.artifact for item in offered])
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    check_outcomes(offered, [kind for kind, _ in found], OUTCOMES)
    expected = golden_outputs(signed_bundle.path, format_name)
    for item, (kind, outputs) in zip(offered, found, strict=True):
        assert kind != "taken" or np.array_equal(np.float32(outputs), item.factor * expected)


def test_a_wrong_input_is_refused(project):
    code = "import numpy, small; small.Small().run(numpy.zeros((1, 3, 40, 47), 'float32'))"
    assert "ValueError: picture: expected float32 [1, 3, 40, 48]" in python(project, "-c", code).stderr


def test_a_damaged_golden_fails_the_self_test(project, cli, small_bundle, tmp_path):
    cli("embed", small_bundle, "--platform", "python", "-o", tmp_path / "app")
    golden = tmp_path / "app/small/assets/goldens/000-float-0.bin"
    golden.write_bytes((-np.fromfile(golden, np.float32)).tobytes())
    done = python(tmp_path / "app", "-m", "small")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def test_its_types_are_sound(cli, signed_bundle, tmp_path):
    key = signed_bundle.public_key
    cli("embed", signed_bundle.path, "--platform", "python", "-o", tmp_path / "app", "--public-key", key)
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--cache-dir"]
    command += [str(tmp_path), str(tmp_path / "app/small")]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
