"""Baselines that are damaged, of something else, or edited by hand; and what a check writes."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgecompile.cli.main import main
from edgecompile.regression.baseline import read_baseline


@pytest.fixture(scope="module")
def bundle(build) -> Path:
    return build(format=("pte",))  # the quickest to inspect: tests of `check` need no more


@pytest.fixture(scope="module")
def baseline(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("baseline") / "shapes.json"
    assert main(["baseline", str(bundle), "-o", str(path), "--no-instructions", "--no-memory"]) == 0
    return path


@pytest.fixture
def edited(baseline, tmp_path):
    """Write the baseline with one thing changed."""

    def edit(place: str, value: object) -> Path:
        document = json.loads(baseline.read_text())
        *parents, last = place.split("/")
        table = document
        for key in parents:
            table = table[key]
        table[last] = value
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(document))
        return path

    return edit


def check(bundle, baseline, *options) -> int:
    return main(["check", str(bundle), "--baseline", str(baseline), *map(str, options)])


def test_file_is_small_and_comes_back(baseline):
    text = baseline.read_text()
    assert len(text) < 8000 and len(text.splitlines()) < 80
    assert read_baseline(baseline).build.name == "shapes"
    assert [path.name for path in baseline.parent.iterdir()] == ["shapes.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ('{"schema_version": 99}', "schema version is 99"),
        ('{"schema_version": 1}', "the key 'build' is missing"),
    ],
)
def test_damaged_baseline(bundle, tmp_path, capsys, text, said):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert check(bundle, path) == 2
    error = capsys.readouterr().err
    assert said in error and str(path) in error


def test_no_baseline(bundle, tmp_path, capsys):
    assert check(bundle, tmp_path / "none.json") == 2
    assert "error[invalid-baseline]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("build/samples", 0),
        ("build/samples", 10**400),
        ("build/artifacts/pte/size_bytes", 10**400),
        ("build/artifacts/pte/scores/noise", [[1e308]]),
        ("build/artifacts/pte/identical", 1.5),
        ("build/artifacts/pte/scores/correct", "xyz"),
        ("build/layers/conv2d/scale", 0),
        ("build/unknown", 1),
        ("build/core", {"devise": "pixel-6"}),
        ("tolerances/size_growth_percent", -1),
        ("tolerances/siz", 1),
    ],
)
def test_value_that_cannot_be(bundle, edited, capsys, place, value):
    assert check(bundle, edited(place, value)) == 2
    error = capsys.readouterr().err
    assert "error[invalid-baseline]" in error and place.rpartition("/")[2] in error


@pytest.mark.parametrize(
    ("place", "value"), [("build/name", "other"), ("build/target", "ios-arm64"), ("build/precision", "fp32")]
)
def test_baseline_of_another_build(bundle, edited, capsys, place, value):
    assert check(bundle, edited(place, value)) == 2
    error = capsys.readouterr().err
    assert "error[baseline-mismatch]" in error and value in error and "edgecompile baseline" in error


def test_baseline_of_other_inputs(bundle, edited, capsys):
    path = edited("build/inputs", [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}])
    assert check(bundle, path) == 2
    assert "its inputs are another" in capsys.readouterr().err


def test_other_evaluation_data(build, baseline, capsys):
    assert check(build(evaluation="other_evaluation", format=("pte",)), baseline) == 2
    error = capsys.readouterr().err
    assert "error[evaluation-data-changed]" in error and "--evaluation" in error


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("scores/correct", "ff"),
        ("scores/same_top1", ""),
        ("scores/noise", [[1]]),
        ("scores/signal", []),
    ],
)
def test_scores_of_fewer_samples(bundle, edited, capsys, place, value):
    """They fit the schema, and no test can be made with them."""
    assert check(bundle, edited(f"build/artifacts/pte/{place}", value)) == 2
    assert "error[invalid-baseline]" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--skip", "sice"), ("--tolerance", "size=3"), ("--tolerance", "x")])
def test_unknown_gate_or_tolerance(bundle, baseline, capsys, option):
    assert check(bundle, baseline, *option) == 2
    assert "error[usage]" in capsys.readouterr().err


def test_baseline_of_another_cpu(bundle, edited, capsys):
    """Kernels differ in the last bits; all else must hold."""
    path = edited("build/artifacts/pte/identical", 0.0)
    document = json.loads(path.read_text())
    document["build"]["host"] = "Some Other CPU"
    path.write_text(json.dumps(document))
    assert check(bundle, path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["skipped"] == ["identical"] and any("Some Other CPU" in note for note in found["notes"])


def test_labels_that_the_build_has_not(build, baseline, capsys):
    """Without labels the data is another: its hash says so before any number is compared."""
    assert check(build(evaluation=None, format=("pte",)), baseline) == 2
    assert "error[evaluation-data-changed]" in capsys.readouterr().err


def test_metric_that_the_build_has_not(bundle, edited, capsys):
    layer = {"kind": "conv2d", "where": "", "sqnr_db": 40, "own_sqnr_db": 40, "clipped_share": 0}
    path = edited("build/layers/conv2d_99", {**layer, "scale": 0.1, "zero_point": 0})
    assert check(bundle, path) == 4
    shown = capsys.readouterr()
    assert "gone: conv2d_99" in shown.out and "error[gate-failed]" in shown.err


def test_tolerances_of_the_file_hold(bundle, edited, capsys):
    document = json.loads(edited("build/artifacts/pte/size_bytes", 1000).read_text())
    path = edited("build/artifacts/pte/size_bytes", 1000)
    assert check(bundle, path) == 4
    document["tolerances"] = {"size_growth_percent": 1e6}
    path.write_text(json.dumps(document))
    assert check(bundle, path) == 0
    assert check(bundle, path, "--tolerance", "size_growth_percent=2") == 4
    capsys.readouterr()


def test_tolerances_are_written(bundle, tmp_path, capsys):
    path = tmp_path / "own.json"
    options = ["--no-instructions", "--no-memory", "--tolerance", "sqnr_drop_db=0.3"]
    assert main(["baseline", str(bundle), "-o", str(path), *options]) == 0
    assert json.loads(path.read_text())["tolerances"] == {"sqnr_drop_db": 0.3}
    assert main(["baseline", str(bundle), "-o", str(path), "--no-instructions", "--no-memory"]) == 0
    assert read_baseline(path).tolerances.sqnr_drop_db == 0.3  # of the file that was replaced
    path.write_text('{"schema_version": 0}')
    capsys.readouterr()
    assert main(["baseline", str(bundle), "-o", str(path), "--no-instructions", "--no-memory"]) == 0
    assert "tolerances of the earlier baseline are lost" in capsys.readouterr().out
    assert read_baseline(path).tolerances.changed() == {}


def test_other_forms(bundle, edited, tmp_path, capsys):
    path = edited("build/artifacts/pte/size_bytes", 1000)
    junit, markdown = tmp_path / "junit.xml", tmp_path / "comment.md"
    status = check(bundle, path, "--skip", "sqnr", "--json", "--junit", junit, "--markdown", markdown)
    assert status == 4
    document = json.loads(capsys.readouterr().out)
    assert not document["passed"] and document["skipped"] == ["sqnr"]
    (row,) = (row for row in document["rows"] if row["verdict"] == "failed")
    assert (row["gate"], row["of"], row["baseline"]) == ("size", "pte", 1000)
    suite = ElementTree.parse(junit).getroot()
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    skipped = [case.get("name") for case in suite if case.find("skipped") is not None]
    assert (failed, skipped) == (["size"], ["sqnr"])
    assert (suite.get("failures"), suite.get("skipped"), suite.get("tests")) == ("1", "1", str(len(suite)))
    comment = markdown.read_text()
    assert comment.startswith("### edgecompile: FAILED") and "| size | pte | 1.00 KB |" in comment
    assert "<details>" in comment


def test_baseline_cannot_be_written(bundle, tmp_path, capsys):
    path = tmp_path / "none" / "x.json"
    assert main(["baseline", str(bundle), "-o", str(path), "--no-instructions", "--no-memory"]) == 2
    assert "error[output-not-writable]" in capsys.readouterr().err


def test_core_without_counting(bundle, tmp_path, capsys):
    options = ["--no-instructions", "--cpu", "cortex-a53"]
    assert main(["baseline", str(bundle), "-o", str(tmp_path / "x"), *options]) == 2
    assert "error[usage]" in capsys.readouterr().err


def test_bundle_of_an_earlier_version(bundle, baseline, monkeypatch, capsys):
    from edgecompile.artifact import Bundle

    original = Bundle.report_dict

    def without_scores(self):
        report = original(self)
        del report["scores"]
        return report

    monkeypatch.setattr(Bundle, "report_dict", without_scores)
    assert check(bundle, baseline) == 2
    assert "error[invalid-report]" in capsys.readouterr().err
