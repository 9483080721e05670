"""Budgets on quality: what has to stay in float does, and nothing else."""

import json

import networks
import pytest

from edgecompile.artifact import load_bundle

NETWORKS = networks.__file__
DATA = (
    "--calibration",
    f"{NETWORKS}:textures",
    "--evaluation",
    f"{NETWORKS}:other_textures",
)
NAIVE = (
    "equalization=false",
    "bias_absorption=false",
    "concat_splitting=false",
    "channel_splitting=0",
    "weight_rounding=nearest",
    "bias_correction=false",
)


@pytest.fixture(scope="module")
def built(cli, tmp_path_factory):
    """Build the network that breaks naive quantization."""

    def run(*options, data=DATA, status=0):
        output = tmp_path_factory.mktemp("built")
        target = ("--target", "linux-x86-64", "--output", output)
        finished = cli("build", f"{NETWORKS}:uneven", *target, *data, *options)
        assert finished.status == status, finished.err
        return finished if status else load_bundle(output / "linux-x86-64")

    return run


def sqnr(bundle):
    return {row["name"]: row["against_float"]["sqnr_db"] for row in _rows(bundle)}


def _rows(bundle):
    return [row for row in bundle.report_dict()["quality"] if row["against_float"] is not None]


def test_what_breaks_naive_quantization_holds_by_default(built):
    said = (*NAIVE, "activation_observer=min-max")
    naive = sqnr(built(*(part for item in said for part in ("--quantization", item))))
    default = sqnr(built())
    assert set(naive) == set(default) == {"reference", "pte", "ptl", "onnx"}
    assert max(naive.values()) < 15
    assert min(default.values()) >= 30


@pytest.fixture(scope="module")
def within(built):
    return built("--min-sqnr-db", 35)


def test_a_budget_holds_in_every_artifact_and_the_report_shows_how(within):
    assert min(sqnr(within).values()) >= 35
    report = within.report_dict()
    mixed = report["mixed_precision"]
    assert 0 < len(mixed["layers"]) < mixed["quantizable"] / 2
    assert [trial["holds"] for trial in mixed["trials"]].count(True) >= 1
    assert not mixed["trials"][0]["holds"] and mixed["trials"][0]["layers"] == []
    text = within.report_text()
    assert "budget: an SQNR of at least 35 dB" in text
    assert all(layer["name"] in text for layer in mixed["layers"])
    reasons = [row["reason"] for row in report["why_not"]]
    assert sum("the budget" in reason for reason in reasons) >= len(mixed["layers"])


def test_no_layer_of_them_could_be_spared(within):
    """Each program with one layer less in float was measured: none holds."""
    from edgecompile.quantize import float_search

    mixed = within.report_dict()["mixed_precision"]
    kept = {layer["name"] for layer in mixed["layers"]}
    measured = {frozenset(trial["layers"]): trial["holds"] for trial in mixed["trials"]}
    assert measured[frozenset(kept)]
    smaller = [kept - {name} for name in kept]
    assert len(kept) <= float_search.TAKEN_BACK
    assert [measured.get(frozenset(names)) for names in smaller] == [False] * len(smaller)


def test_where_it_holds_already_nothing_stays_in_float(built):
    mixed = built("--min-sqnr-db", 20).report_dict()["mixed_precision"]
    assert mixed["layers"] == [] and [trial["holds"] for trial in mixed["trials"]] == [True]


def test_a_budget_that_cannot_hold_ends_the_build_and_says_what_came_closest(built):
    finished = built("--min-sqnr-db", 300, status=4)
    assert "error[budget-not-met]" in finished.err
    assert "the closest of" in finished.err and "dB with" in finished.err


def test_a_budget_on_accuracy(built):
    data = (*DATA[:2], "--evaluation", f"{NETWORKS}:labelled_textures")
    loose = built("--max-accuracy-drop", 100, data=data).report_dict()
    assert loose["mixed_precision"]["layers"] == []
    naive = [part for item in NAIVE for part in ("--quantization", item)]
    bundle = built("--max-accuracy-drop", 0, *naive, data=data)
    mixed = bundle.report_dict()["mixed_precision"]
    assert mixed["trials"][0]["accuracy_drop"] > 0
    assert mixed["layers"]
    accuracy = {row["name"]: row["accuracy"] for row in bundle.report_dict()["quality"]}
    assert accuracy["float"] == 1
    assert min(accuracy.values()) == 1


def test_a_budget_on_accuracy_needs_labels(built):
    finished = built("--max-accuracy-drop", 1, status=2)
    assert "error[labels-required]" in finished.err


@pytest.mark.parametrize("option", [("--min-sqnr-db", 30), ("--max-accuracy-drop", 1), ("--sensitivity",)])
def test_only_static_int8_has_a_budget(built, option):
    finished = built("--precision", "fp32", *option, status=2)
    assert "is for the precision int8" in finished.err


def test_the_plan_names_what_a_budget_adds(cli, tmp_path):
    target = ("--target", "linux-x86-64", "--output", tmp_path)
    finished = cli("build", f"{NETWORKS}:uneven", *target, *DATA, "--min-sqnr-db", 35, "--plan", "--json")
    stages = {row["stage"] for row in json.loads(finished.out)["stages"]}
    assert any("mixed" in stage for stage in stages)
    settings = {row["name"]: row for row in json.loads(finished.out)["plan"]}
    assert settings["min-sqnr-db"]["value"] == 35


def test_sensitivity_is_shown_and_an_interrupted_measurement_goes_on(built, cli, monkeypatch):
    from edgecompile.quantize import sensitivity

    whole, measured = sensitivity.measure_sample, []

    def interrupted(*arguments):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(arguments)
        return whole(*arguments)

    monkeypatch.setattr(sensitivity, "measure_sample", interrupted)
    own = ("--sensitivity", "--quantization", "calibration_samples=20")  # not measured by another test
    built(*own, status=130)
    assert len(measured) == 5
    monkeypatch.setattr(
        sensitivity, "measure_sample", lambda *arguments: measured.append(arguments) or whole(*arguments)
    )
    bundle = built(*own)
    assert len(measured) == 32
    report = bundle.report_dict()["sensitivity"]
    assert report["samples"] == 32
    assert {"picture", "conv2d", "mean", "linear"} <= {row["name"] for row in report["rows"]}
    shown = cli("inspect", bundle.path, "--sensitivity")
    assert shown.status == 0 and "sensitivity, on 32 samples" in shown.out
    assert "sensitivity, on 32 samples" in bundle.report_text()
    document = json.loads(cli("inspect", bundle.path, "--sensitivity", "--json").out)
    assert document["sensitivity"] == report
    finished = cli("inspect", bundle.path / bundle.artifacts[0].path, "--sensitivity")
    assert finished.status == 2 and "give the bundle's folder" in finished.err


def test_a_bundle_without_sensitivity_says_how_to_get_it(within, cli):
    finished = cli("inspect", within.path, "--sensitivity")
    assert finished.status == 2 and "--sensitivity" in finished.err
