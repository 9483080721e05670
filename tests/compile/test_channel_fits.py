"""What is done to channels before quantization, in whole builds: all formats, all in integers, and kept."""

import json
from pathlib import Path

import pytest

from edgecompile.artifact import load_bundle

NETWORKS = Path(__file__).parent.parent / "quantize" / "badly_scaled.py"


@pytest.fixture(scope="module")
def build_report(cli, tmp_path_factory):
    """Build a network for all formats, validate the bundle, and return its report."""

    def run(network, *said, flags=()):
        output = tmp_path_factory.mktemp("built")
        options = [part for item in said for part in ("--quantization", item)]
        data = ("--calibration", f"{NETWORKS}:{network}_data")
        target = ("--target", "linux-x86-64", "--output", output)
        built = cli("build", f"{NETWORKS}:{network}", *target, *data, *options, *flags)
        assert built.status == 0, built.err
        folder = output / "linux-x86-64"
        validated = cli("validate", folder)
        assert validated.status == 0, validated.out
        return json.loads(load_bundle(folder).read("report.json"))

    return run


def quality(report):
    return {row["name"]: row["against_float"]["sqnr_db"] for row in report["quality"] if row["against_float"]}


@pytest.mark.parametrize(
    ("network", "step", "off", "on", "gain_db"),
    [
        ("branches", "split-concats", ("concat_splitting=false",), (), 10),
        (
            "outliers",
            "split-channels",
            ("weight_bits=6", "channel_splitting=0"),
            ("weight_bits=6", "channel_splitting=0.1"),
            4,
        ),
    ],
)
def test_all_formats_gain_and_compute_in_integers(build_report, network, step, off, on, gain_db):
    before, after = build_report(network, *off), build_report(network, *on)
    assert step not in {row["name"] for row in before["steps"]}
    assert [row["rewrites"] > 0 for row in after["steps"] if row["name"] == step] == [True]
    assert after["why_not"] == []
    for name in ("pte", "ptl", "onnx"):
        assert quality(after)[name] > quality(before)[name] + gain_db
    # Another correction, of the same channels: what was found for them is read back.
    again = build_report(network, *on, "bias_correction=false")
    assert [row["rewrites"] for row in again["steps"] if row["name"] == step] == [
        row["rewrites"] for row in after["steps"] if row["name"] == step
    ]


def test_layers_with_zeros_stay_whole(build_report):
    report = build_report("branches", flags=("--sparsity", "0.5"))
    assert "split-concats" not in {row["name"] for row in report["steps"]}
    assert all(row["found"] >= row["zeros"] for row in report["sparsity"]["layers"])
