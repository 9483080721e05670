"""`inspect BUNDLE --layers`: what a build measured of each layer; damaged, and of an earlier version."""

import dataclasses
import json
import shutil

import networks
import pytest

from edgecompile.artifact import CONSTANTS, PROGRAM, REPORT, load_bundle, sha256, write_manifest
from edgecompile.inspect_artifact import inspect
from edgecompile.program_file import read_program
from edgecompile.quantize.layers import quantized_layers


@pytest.fixture(scope="module")
def bundle(build):
    return build("small", "--format", "ptl", "--evaluation", f"{networks.__file__}:pictures")


def with_report(bundle, folder, data):
    """Write a bundle whose manifest and report agree, whatever that holds."""
    shutil.copytree(bundle, folder)
    (folder / REPORT).write_bytes(data)
    manifest = load_bundle(folder).manifest
    write_manifest(folder, dataclasses.replace(manifest, files=manifest.files | {REPORT: sha256(data)}))
    return folder


def test_every_layer_is_listed_in_order(cli, bundle):
    read = load_bundle(bundle)
    layers = read.report_dict()["layers"]
    program = read_program(read.read(PROGRAM), read.read(CONSTANTS), bundle)
    assert [row["name"] for row in layers["rows"]] == [layer.name for layer in quantized_layers(program)]
    assert layers["samples"] == 4 and layers["first_fall"] is None
    assert all(row["sqnr_db"] > 30 and row["where"].startswith("networks.py:") for row in layers["rows"])
    shown = cli("inspect", bundle, "--layers")
    assert (shown.status, shown.err) == (0, "")
    for row in layers["rows"]:
        assert f"{row['name']} {row['where']}" in shown.out and f"{row['own_sqnr_db']:.1f}" in shown.out
    assert "quality falls at no single layer" in shown.out and "conv and linear" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 110
    document = json.loads(cli("inspect", bundle, "--layers", "--json").out)
    assert document["layers"] == layers and len(document["artifacts"]) == 1
    assert "layers" not in json.loads(cli("inspect", bundle, "--json").out)
    assert "quality falls" not in cli("inspect", bundle).out


def test_an_artifact_alone_still_lists_its_operators(cli, bundle):
    shown = cli("inspect", bundle / "networks.ptl", "--layers")
    assert shown.status == 0 and "quantized::conv2d_relu" in shown.out and "SQNR" not in shown.out


def test_the_report_names_the_first_fall(build):
    folder = build("outlier", "--format", "ptl", data="spikes")
    report = load_bundle(folder).report_dict()["layers"]
    assert report["first_fall"] == "mul_1"
    text = (folder / "report.txt").read_text()
    assert "quality falls first at mul_1 (networks.py:" in text
    table = inspect(folder, layers=True).text(layers=True, width=80)
    (marked,) = [line for line in table.splitlines() if line.startswith(" > ")]
    assert " mul_1 networks.py:" in marked


def test_in_float_nothing_is_measured(cli, build):
    folder = build("small", "--format", "ptl", "--precision", "fp32", data=None)
    assert load_bundle(folder).report_dict()["layers"] == {"samples": 0, "first_fall": None, "rows": []}
    shown = cli("inspect", folder, "--layers")
    assert shown.status == 0 and "no layer is quantized" in shown.out


def test_a_bundle_of_an_earlier_version(cli, bundle, tmp_path):
    report = load_bundle(bundle).report_dict()
    del report["layers"]
    folder = with_report(bundle, tmp_path / "old", json.dumps(report).encode())
    shown = cli("inspect", folder, "--layers")
    assert shown.status == 2 and shown.out == ""
    assert "error[invalid-report]" in shown.err and "build the bundle again" in shown.err
    assert cli("inspect", folder).status == cli("inspect", folder, "--json").status == 0


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"layers": {"rows": 1}}'])
def test_a_report_that_is_none(cli, bundle, tmp_path, data):
    shown = cli("inspect", with_report(bundle, tmp_path / "bad", data), "--layers")
    assert shown.status == 2 and "error[invalid-report]" in shown.err and "Traceback" not in shown.err


def test_an_altered_report(cli, bundle, tmp_path):
    folder = with_report(bundle, tmp_path / "altered", b"{}")
    (folder / REPORT).write_bytes(b"{} ")
    assert "error[altered-file]" in cli("inspect", folder, "--layers").err
    (folder / REPORT).unlink()
    assert "error[altered-file]" in cli("inspect", folder, "--layers").err
