"""The platform cpp: projects that are really built and run, on this machine and on emulated arm64."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from cpp_project import as_ppm, built
from expected import check_rows, classes_of, golden_outputs
from signed_bundles import check_outcomes, offers

FORMATS = ("onnx", pytest.param("pte", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=FORMATS)
def project(request, cli, small_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "app"
    finished = cli("embed", small_bundle, "--platform", "cpp", "-o", folder, "--format", request.param)
    assert finished.status == 0, finished.err
    return folder


@pytest.fixture(scope="module")
def program(project):
    return built(project, "small", project.parent.name.rstrip("0123456789"), "host")


@pytest.fixture
def format_name(project):
    return project.parent.name.rstrip("0123456789")


def test_the_self_test_passes_with_the_engines_outputs_bit_for_bit(
    program, format_name, small_bundle, tmp_path
):
    done, outputs = program.self_test(tmp_path / "outputs")
    assert done.ok, done.stdout + done.stderr
    assert "pictures: bit for bit" in done.stdout
    assert np.array_equal(outputs, golden_outputs(small_bundle, format_name)[:, 0])


def test_pictures_become_the_references_classes(program, format_name, small_bundle, pictures, tmp_path):
    done = program.run("classify", program.project / "assets", *as_ppm(pictures, tmp_path))
    assert done.ok, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    check_rows(rows, classes_of(small_bundle, format_name, pictures))


def test_an_altered_artifact_is_refused(program, format_name, tmp_path):
    assets = shutil.copytree(program.project / "assets", tmp_path / "assets")
    artifact = assets / f"small.{format_name}"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    done = program.run("self_test", assets)
    assert not done.ok
    assert "error[model-altered]" in done.stderr
    artifact.unlink()
    assert "error[model-unreadable]" in program.run("self_test", assets).stderr
    artifact.mkdir()
    assert "error[model-unreadable]" in program.run("self_test", assets).stderr


OUTCOMES = {
    "": "taken",
    "error[signature-invalid]": "bad signature",
    "error[model-altered]": "bad artifact",
    "error[model-unreadable]": "unreadable",
}


def test_only_what_is_signed_is_loaded(cli, project, format_name, signed_bundle, tmp_path):
    preprocess = ["c++", "-E", "-x", "c++", "-include", "openssl/evp.h", os.devnull]
    if shutil.which("c++") and subprocess.run(preprocess, capture_output=True, check=False).returncode != 0:
        pytest.skip("no headers of OpenSSL (apt-get install libssl-dev)")
    finished = cli(
        "embed", signed_bundle.path, "--platform", "cpp", "-o", tmp_path / "app", "--format", format_name,
        "--public-key", signed_bundle.public_key,
    )  # fmt: skip
    assert finished.status == 0, finished.err
    program = built(tmp_path / "app", "small", format_name, "host", "-DSMALL_LINK_ARTIFACT=OFF")
    expected = golden_outputs(signed_bundle.path, format_name)[:, 0]
    offered, found = offers(signed_bundle, format_name, tmp_path), []
    for item in offered:
        assets = item.artifact.parent
        shutil.copytree(program.project / "assets/goldens", assets / "goldens")
        done, outputs = program.self_test(assets / "outputs", assets)
        told = re.search(r"error\[[a-z-]+\]", done.stderr)
        found.append(told[0] if told else "")
        assert done.ok == (item.outcome == "taken" and item.factor == 1)
        if item.outcome == "taken":
            assert np.array_equal(outputs, item.factor * expected)
    check_outcomes(offered, found, OUTCOMES)


def test_goldens_that_differ_fail_the_self_test(program, tmp_path):
    assets = shutil.copytree(program.project / "assets", tmp_path / "assets")
    golden = assets / "goldens/000-float-0.bin"
    golden.write_bytes((-np.fromfile(golden, "<f4")).tobytes())
    done = program.run("self_test", assets)
    assert not done.ok
    assert "FAILED" in done.stdout
    golden.unlink()
    assert "cannot read" in program.run("self_test", assets).stderr


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P5\n2 2\n255\n1234",
        b"P6\n2 2\n255\n123",
        b"P6\n2 2\n65535\n" + b"1" * 24,
        b"P6\n99999 99999\n255\n1",
        b"P6\n-1 2\n255\n",
    ],
)
def test_what_is_no_picture(program, tmp_path, data):
    (tmp_path / "picture.ppm").write_bytes(data)
    done = program.run("classify", program.project / "assets", tmp_path / "picture.ppm")
    assert not done.ok
    assert "error[input-unreadable]" in done.stderr


@pytest.mark.slow
def test_arm64_with_the_artifact_linked_in(project, format_name, small_bundle, pictures, tmp_path):
    """Its outputs are those of this machine's engine, bit for bit."""
    program = built(project, "small", format_name, "linux-arm64", "-DSMALL_LINK_ARTIFACT=ON")
    (project / f"assets/small.{format_name}").rename(tmp_path / "elsewhere")
    try:
        done, outputs = program.self_test(tmp_path / "outputs")
        shown = program.run("classify", project / "assets", *as_ppm(pictures, tmp_path))
    finally:
        (tmp_path / "elsewhere").rename(project / f"assets/small.{format_name}")
    assert done.ok, done.stdout + done.stderr
    assert "pictures: bit for bit" in done.stdout
    expected = golden_outputs(small_bundle, format_name)[:, 0]
    assert np.array_equal(outputs, expected)
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    check_rows(rows, classes_of(small_bundle, format_name, pictures))
