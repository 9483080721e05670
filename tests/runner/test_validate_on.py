"""`edgecompile validate --on`: the artifacts of a bundle in their native runners."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecompile.cli.main import main


def _validated(capsys, bundle: Path, *options: str) -> dict[str, dict[str, object]]:
    """Validate, and return the rows by name, with the notes."""
    capsys.readouterr()
    assert main(["validate", str(bundle), "--no-layers", "--json", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    return {row["name"]: row for row in document["quality"]} | {"notes": document["notes"]}


def test_on_host_runs_every_artifact_natively(bundle, host_tools, capsys):
    rows = _validated(capsys, bundle, "--on", "host")
    native = {name: row for name, row in rows.items() if " on " in name}
    assert [name.split(" ")[0] for name in native] == ["pte", "ptl", "onnx"]
    for name, row in native.items():
        assert row["against_float"] == rows[name.split(" ")[0]]["against_float"]
    assert all(row["identical"] == 1 for name, row in native.items() if not name.startswith("onnx"))
    assert rows["notes"] == []


@pytest.mark.parametrize(
    "options", [("--cpu", "cortex-a53"), ("--device", "pixel-6"), ("--device", "raspberry-pi-4")]
)
def test_on_emulator_equals_the_reference_bit_for_bit(bundle, emulator, capsys, options):
    rows = _validated(capsys, bundle, "--on", "emulator", *options)
    (pte,) = [row for name, row in rows.items() if name.startswith("pte on emulator")]
    assert pte["identical"] == 1
    assert [note.split(":")[0] for note in rows["notes"]] == ["ptl"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--device", "pixel-6"), "need --on emulator"),
        (("--on", "host", "--cpu", "cortex-a76"), "what the emulator plays"),
        (("--on", "emulator", "--cpu", "cortex-a76", "--device", "pixel-6"), "the same thing twice"),
        (("--on", "emulator", "--device", "pixel-66"), "error[unknown-device]"),
        (("--on", "emulator", "--cpu", "cortex-a67"), "error[unknown-cpu]"),
        (("--on", "phone"), "error[usage]"),
    ],
)
def test_a_place_that_does_not_exist(bundle, emulator, capsys, options, text):
    capsys.readouterr()
    assert main(["validate", str(bundle), *options]) == 2
    assert text in capsys.readouterr().err
