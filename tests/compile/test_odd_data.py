"""What is odd about calibration and evaluation data: a note, a row of the report, or an error."""

import json
import re

import networks
import odd_data
import pytest

ODD, NETWORKS = odd_data.__file__, networks.__file__


@pytest.fixture
def built(cli, tmp_path):
    """Build a network, and return its report and the notes."""

    def run(calibration, evaluation=None, *options, network=f"{NETWORKS}:small"):
        given = ["--calibration", calibration, *(["--evaluation", evaluation] if evaluation else [])]
        arguments = ["--target", "linux-arm64", "--format", "ptl", "--output", tmp_path, *given, *options]
        finished = cli("build", network, *arguments)
        assert finished.status == 0, finished.err
        notes = [line for line in finished.err.splitlines() if line.startswith("note: ")]
        return json.loads((tmp_path / "linux-arm64/report.json").read_text()), notes

    return run


def codes(report):
    return [row["code"] for row in report["findings"]]


def test_good_data_gives_no_finding(built):
    report, notes = built(f"{ODD}:plenty", f"{ODD}:others")
    assert (report["findings"], notes) == ([], [])
    (row,) = report["input_ranges"]
    assert row["name"] == "picture" and row["outside"] == 0
    assert row["low"] <= row["seen_low"] < 0.01 and 0.99 < row["seen_high"] < row["high"] * 1.01


FOUND = {
    "few-calibration-samples": (f"{NETWORKS}:pictures", None, "12 calibration samples may be too few"),
    "few-calibration-samples twice": (f"{ODD}:twice", None, "20 calibration samples, 10 of them different,"),
    "identical-calibration-samples": (f"{ODD}:same", None, "all 20 calibration samples are the same"),
    "constant-input": (f"{ODD}:flat", None, "the input 'picture' has equal elements throughout every"),
    "overlapping-data": (
        f"{ODD}:plenty",
        f"{ODD}:overlapping",
        "7 of 17 evaluation samples are calibration samples too (0, 1, 2, 3, 4, ...)",
    ),
    "clipped-input": (f"{ODD}:plenty", f"{ODD}:brighter", "3.0% of the elements of the input 'picture' are"),
}


@pytest.mark.parametrize("code", FOUND)
def test_what_is_odd_is_a_note_and_a_row(built, code, tmp_path):
    calibration, evaluation, said = FOUND[code]
    report, notes = built(calibration, evaluation)
    assert codes(report) == code.split()[:1]
    (row,), (note,) = report["findings"], notes
    assert row["what"] == (evaluation or calibration) and said in row["text"]
    assert note == f"note: {row['what']}: {row['text']}"
    text = " ".join((tmp_path / "linux-arm64/report.txt").read_text().split())
    assert "findings" in text and said[:15] in text


def test_an_input_of_zeros_is_named(built):
    report, notes = built(f"{ODD}:zeros")
    found = [(row["code"], row["what"], row["where"]) for row in report["findings"]]
    assert found[:3] == [
        ("identical-calibration-samples", f"{ODD}:zeros", ""),
        ("constant-input", f"{ODD}:zeros", ""),
        ("constant-activation", "input (picture)", ""),
    ]
    assert len(notes) == 3 and all(code == "constant-activation" for code, *_ in found[3:])


def test_of_several_alike_one_is_a_note(built):
    options = ["--target", "ios-arm64"]  # which has the same findings
    report, (note,) = built(f"{ODD}:plenty", f"{ODD}:others", *options, network=f"{ODD}:dead")
    assert [(row["code"], row["what"]) for row in report["findings"]] == [
        ("constant-activation", "hardtanh (hardtanh_default)"),
        ("constant-activation", "hardtanh (hardtanh_default_1)"),
    ]
    assert note.startswith("note: hardtanh (hardtanh_default) at networks.py:")
    assert note.endswith(" (and 1 more in the report)")
    # The program is reused, and what its calibration found with it.
    again, _ = built(f"{ODD}:plenty", f"{ODD}:overlapping", network=f"{ODD}:dead")
    assert again["findings"][:2] == report["findings"]
    assert codes(again)[2:] == ["overlapping-data"]


def test_what_needs_no_calibration_is_not_told_of_it(built):
    report, notes = built(f"{ODD}:same", f"{ODD}:brighter", "--precision", "fp32")
    assert (report["findings"], report["input_ranges"], notes) == ([], [], [])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((f"{ODD}:plenty", f"{ODD}:overlapping"), (f"{ODD}:plenty", f"{ODD}:others")),
        ((f"{ODD}:one", None), (f"{ODD}:same", None)),
        ((f"{ODD}:same", f"{ODD}:same"), (f"{ODD}:same", None)),
    ],
    ids=["other evaluation data", "the same ranges", "the same data"],
)
def test_findings_are_kept_and_never_those_of_other_data(built, first, second):
    told = [built(*data) for data in (first, second)]
    assert codes(told[0][0]) != codes(told[1][0])
    assert built(*first) == told[0]


@pytest.mark.parametrize(
    ("data", "label", "sample"),
    [("negative_label", -1, 3), ("sixth_class", 5, 7)],
    ids=["negative", "too large"],
)
def test_a_label_that_is_no_class(cli, tmp_path, data, label, sample):
    arguments = ["--target", "linux-arm64", "--calibration", f"{ODD}:plenty", "--evaluation", f"{ODD}:{data}"]
    finished = cli("build", f"{NETWORKS}:small", *arguments, "--output", tmp_path)
    assert finished.status == 2
    assert f"error[label-out-of-range]: the label {label} is no class of the model" in finished.err
    assert f"odd_data.py:{data}, sample {sample}" in finished.err and "0 to 4" in finished.err
    assert "calibrate" not in finished.err and not list(tmp_path.iterdir())


def test_a_label_of_an_output_without_classes(cli, tmp_path):
    arguments = ["--target", "linux-arm64", "--precision", "fp32", "--evaluation", f"{ODD}:others"]
    finished = cli("build", f"{ODD}:brightness", *arguments, "--output", tmp_path)
    assert finished.status == 2
    assert "error[label-out-of-range]" in finished.err and "no label" in finished.err


def test_a_model_that_gives_nan_or_infinity(cli, tmp_path):
    arguments = ["--target", "linux-arm64", "--calibration", f"{ODD}:one_black", "--output", tmp_path]
    finished = cli("build", f"{ODD}:logarithm", *arguments)
    assert finished.status == 3
    assert "error[value-not-finite]: log (log) gives infinity in the calibration" in finished.err
    assert re.search(r"where: odd_data.py:\d+; \S+odd_data.py:one_black, sample 9\n", finished.err)
    assert "768 of 768 elements" in finished.err and not list(tmp_path.iterdir())
