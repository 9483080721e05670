"""Builds with --prune: what goes is what was asked for, in every format, and what goes wrong is said."""

import json
import os

import networks
import pytest

from edgecompile.artifact import load_bundle
from edgecompile.cache_upkeep import clear, items, sweep, trim
from edgecompile.pruning.float_student import FloatStudent
from edgecompile.stage_cache import STATE

NETWORKS = networks.__file__
DATA = ("--calibration", f"{NETWORKS}:textures", "--evaluation", f"{NETWORKS}:other_textures")
TARGET = "linux-x86-64"


@pytest.fixture(scope="module")
def halved(built):
    return built("--prune", 0.5)


@pytest.fixture(scope="module")
def whole(built):
    return built()


def groups(bundle):
    return {row["name"]: row for row in bundle.report_dict()["pruning"]["groups"]}


def test_half_of_the_prunable_macs_are_gone_and_the_proof_holds(halved):
    pruning = halved[0].report_dict()["pruning"]
    assert pruning["removed"] == pytest.approx(0.5, abs=0.03)
    gone = pruning["before"]["macs"] - pruning["after"]["macs"]
    assert gone / pruning["prunable"] == pytest.approx(pruning["removed"], abs=1e-4)
    assert pruning["proof_samples"] == 8
    assert 0 <= pruning["proof_error"] < 1e-5


def test_every_format_is_smaller_and_validated(halved, whole):
    small, large = (
        {item.format: item.size_bytes for item in bundle.manifest.artifacts} for bundle, _ in (halved, whole)
    )
    assert set(small) == {"pte", "ptl", "onnx"}
    assert all(size < large[name] for name, size in small.items())
    rows = halved[0].report_dict()["quality"]
    assert not [row["missed"] for row in rows if row["missed"]]
    assert min(row["against_float"]["sqnr_db"] for row in rows if row["against_float"]) > 20


def test_least_squares_brings_back_most_of_what_was_lost(halved):
    removed, fitted = halved[0].report_dict()["pruning"]["recovery"]
    assert (removed["step"], fitted["step"]) == ("removed", "least squares")
    assert fitted["sqnr_db"] > removed["sqnr_db"] + 6
    assert removed["agreement"] is not None


def test_the_report_shows_it_and_why_the_head_is_whole(halved):
    bundle, finished = halved
    assert "of the 3.20 M prunable MACs are gone (50.0% asked for)" in finished.out.replace("\n", " ")
    assert "proof: the same as zeroing the channels" in finished.out
    why = [row for row in bundle.report_dict()["why_not"] if row["stage"] == "prune"]
    assert [(row["what"], row["reason"]) for row in why] == [("head", "they are an output of the model")]


def test_nothing_is_said_of_pruning_where_nothing_is_pruned(whole):
    assert whole[0].report_dict()["pruning"] is None
    assert "pruned" not in whole[1].out


def test_widths_are_multiples_of_the_targets_channel_multiple(halved):
    left = {name: row["left"] for name, row in groups(halved[0]).items()}
    assert all(count % 8 == 0 for name, count in left.items() if name != "head")
    assert any(row["left"] < row["units"] for row in groups(halved[0]).values())


def test_rules_of_the_config_hold(built, tmp_path):
    config = tmp_path / "edgecompile.toml"
    config.write_text('prune = 0.3\n[pruning]\nexclude = ["st*"]\n[pruning.ratio]\n"expand.0" = 0.5\n')
    bundle, _ = built("--config", config)
    rows = groups(bundle)
    assert rows["stem.0"]["left"] == rows["stem.0"]["units"]
    assert rows["expand.0"]["left"] == 48
    assert bundle.report_dict()["pruning"]["removed"] == pytest.approx(0.3, abs=0.03)
    settings = {item.name: item.value for item in bundle.manifest.settings}
    assert settings["prune"] == 0.3
    assert settings["pruning.ratio"] == {"expand.0": 0.5}


def test_rules_alone_prune_what_they_say(built):
    bundle, _ = built("--prune", 0, "--pruning", 'ratio={"last.0": 0.25}')
    rows = groups(bundle)
    assert {name: row["left"] for name, row in rows.items() if row["left"] < row["units"]} == {"last.0": 48}


@pytest.mark.parametrize("measure", ["parameters", "size", "latency"])
def test_other_measures_are_met(built, measure):
    bundle, _ = built("--prune", 0.4, "--pruning", f"measure={measure}", "--format", "onnx")
    assert bundle.report_dict()["pruning"]["removed"] == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("importance", ["l1", "l2", "batch-norm", "activation", "taylor"])
def test_other_importances_choose_other_channels(built, halved, importance):
    bundle, _ = built("--prune", 0.5, "--pruning", f"importance={importance}", "--format", "onnx")
    pruning = bundle.report_dict()["pruning"]
    assert pruning["removed"] == pytest.approx(0.5, abs=0.03)
    assert pruning["recovery"][0] != halved[0].report_dict()["pruning"]["recovery"][0]


def test_in_several_steps_and_in_float(built):
    bundle, finished = built(
        "--prune", 0.5, "--pruning", "steps=2", "--precision", "fp32", "--format", "onnx"
    )
    assert "importance of channels, step 2 of 2" in finished.err
    assert bundle.report_dict()["pruning"]["removed"] == pytest.approx(0.5, abs=0.03)


def test_a_second_target_and_a_second_build_choose_nothing_again(cli, tmp_path):
    options = ("--prune", 0.25, "--format", "onnx", "--output", tmp_path, *DATA)
    spec = f"{NETWORKS}:prunable"
    both = cli("build", spec, "--target", TARGET, "--target", "android-arm64", *options)
    assert both.status == 0, both.err
    assert both.err.count("importance of channels") == 1
    again = cli("build", spec, "--target", TARGET, *options)
    assert "importance of channels" not in again.err
    planned = cli("build", spec, "--target", TARGET, *options, "--plan", "--json")
    stages = json.loads(planned.out)["stages"]
    assert {"stage": "choose channels", "reused": True} in stages
    assert all(row["reused"] for row in stages)


def test_a_budget_is_on_the_original_model(built):
    lines = built("--prune", 0.5, "--min-sqnr-db", 60, status=4).err
    assert "error[budget-not-met]" in lines


def test_more_than_can_go_says_how_far_it_got_and_what_holds_it_back(built):
    lines = built("--prune", 0.99, status=4).err
    assert "error[pruning-target-not-met]" in lines
    assert "of the prunable MACs can go, 99.0% were asked for" in lines
    assert "stem.0: 8 of 32 units are left: 8 channels are the least, in steps of 8 units" in lines


def test_a_model_without_channels_that_can_go(built):
    lines = built("--prune", 0.5, network="nothing_to_prune", status=3).err
    assert "error[nothing-to-prune]: no channel of the model can be removed" in lines
    assert "1: they are an output of the model" in lines


@pytest.mark.parametrize(
    ("said", "where"), [('exclude=["stem.1"]', "pruning.exclude"), ('ratio={"stem.1": 0.1}', "pruning.ratio")]
)
def test_a_rule_for_no_layer(built, said, where):
    lines = built("--prune", 0.5, "--pruning", said, status=2).err
    assert "error[unknown-layer]: there is no layer 'stem.1'" in lines
    assert f"where: {where}" in lines
    assert "did you mean 'stem.0'?" in lines


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--prune", "1"), "usage", "1.0 is not in the range 0<=x<1"),
        (("--prune", "-0.1"), "usage", "-0.1 is not in the range 0<=x<1"),
        (("--pruning", "steps=2"), "usage", "add `--prune RATIO`, 0 to 1"),
        (("--prune", "0.5", "--pruning", "importanc=l2"), "invalid-pruning", "did you mean 'importance'?"),
        (("--prune", "0.5", "--pruning", "importance=tailor"), "invalid-pruning", "did you mean 'taylor'?"),
        (("--prune", "0.5", "--pruning", 'ratio={"stem.0": 1.5}'), "invalid-pruning", "less than 1"),
    ],
)
def test_what_is_wrong_with_the_settings_is_said_before_any_work(built, options, code, text):
    finished = built(*options, status=2)
    assert f"error[{code}]" in finished.err
    assert text in finished.err
    assert "capture" not in finished.err


def test_pruning_needs_calibration_data(built):
    lines = built("--prune", 0.5, "--precision", "fp32", data=(), status=2).err
    assert "error[calibration-required]: pruning measures what channels matter on calibration data" in lines


def test_groups_of_a_model_are_listed(cli):
    finished = cli("inspect", f"{NETWORKS}:prunable", "--groups")
    assert finished.status == 0
    assert "they are an output of the model" in finished.out
    document = json.loads(cli("inspect", f"{NETWORKS}:prunable", "--groups", "--json").out)
    rows = {row["name"]: row for row in document["groups"]}
    assert rows["stem.0"]["layers"] == ["stem.0", "project.0"]
    assert (rows["expand.0"]["units"], rows["expand.0"]["removable"]) == (96, 96)
    # 16x16 positions: the expansion, the depthwise filter and the projection.
    assert rows["expand.0"]["macs"] == 256 * (32 * 96 + 96 * 9 + 96 * 32)
    assert rows["head"]["removable"] == 0
    wrong = cli("inspect", f"{NETWORKS}:prunable", "--groups", "--layers")
    assert wrong.status == 2
    assert "error[usage]: --groups is of a model" in wrong.err


DISTILLED = ("--prune", 0.5, "--format", "onnx", "--pruning", "distillation_steps=12")


def bundle_bytes(output):
    return {path.name: path.read_bytes() for path in (output / TARGET).rglob("*.onnx")}


def state_files(folder):
    return list((folder / "stages").rglob(f"*{STATE}"))


def test_an_interrupted_build_goes_on_with_its_distillation(cli, tmp_path, monkeypatch):
    """The state of the training is in the cache until the training ends, and the next build takes it up."""
    outputs, runs = FloatStudent.outputs, []

    def interrupted(self, inputs, constants):
        runs.append(inputs)
        if len(runs) == 14:
            raise KeyboardInterrupt
        return outputs(self, inputs, constants)

    def run(name, cache):
        monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / cache))
        spec = f"{NETWORKS}:prunable"
        return cli("build", spec, "--target", TARGET, *DATA, *DISTILLED, "--output", tmp_path / name)

    assert run("whole", "first").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(FloatStudent, "outputs", interrupted)
        assert run("again", "second").status == 130
    assert not (tmp_path / "again" / TARGET).exists()
    (state,) = state_files(tmp_path / "second")
    assert state.stat().st_size > 1000
    (item,) = [item for item in items() if item.paths == (state,)]
    assert (item.kind, item.size_bytes) == ("prune", state.stat().st_size)

    with monkeypatch.context() as patch:
        runs.clear()
        patch.setattr(FloatStudent, "outputs", lambda *given: runs.append(given) or outputs(*given))
        finished = run("again", "second")
    assert finished.status == 0, finished.err
    assert "importance of channels" not in finished.err
    assert 0 < len(runs) < 24  # 12 steps and as many looks at the held-out samples, of which 13 were done
    assert not state_files(tmp_path / "second")
    assert bundle_bytes(tmp_path / "again") == bundle_bytes(tmp_path / "whole") != {}
    steps = [
        row["step"] for row in load_bundle(tmp_path / "again" / TARGET).report_dict()["pruning"]["recovery"]
    ]
    assert steps == ["removed", "least squares", "distilled"]


def test_states_that_nobody_takes_up_are_removed_with_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path))
    monkeypatch.setenv("EDGECOMPILE_CACHE_LIMIT_GB", "0")
    folder = tmp_path / "stages" / "prune"
    folder.mkdir(parents=True)
    old, new = folder / f"old{STATE}", folder / f"new{STATE}"
    for path in (old, new):
        path.write_bytes(bytes(100))
    os.utime(old, (0, 0))
    sweep()
    assert {item.paths for item in items()} == {(old,), (new,)}
    assert trim() == 100  # a state that was written a moment ago may be in use
    assert state_files(tmp_path) == [new]
    assert clear() == 100
    assert not state_files(tmp_path)
