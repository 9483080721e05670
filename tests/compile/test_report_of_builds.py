"""`edgecompile report` of bundles that were really built, with what was really measured of them."""

import json
import re

import networks
import pytest

from edgecompile.artifact import load_bundle

SPEC = networks.__file__
TEXTURES = ("--calibration", f"{SPEC}:textures", "--evaluation", f"{SPEC}:other_textures")


@pytest.fixture(scope="module")
def page(cli, tmp_path_factory):
    """Write the page of bundles, and return its text."""

    def run(*arguments):
        path = tmp_path_factory.mktemp("page") / "page.html"
        finished = cli("report", *arguments, "-o", path)
        assert finished.status == 0, finished.err
        return path.read_text(encoding="utf-8")

    return run


def figures(text):
    return re.findall(r'<figure id="([^"]*)"', text)


@pytest.fixture(scope="module")
def small(build):
    return build("small", "--format", "pte", "--sensitivity", "--evaluation", f"{SPEC}:pictures")


def test_a_validated_build(cli, page, small, tmp_path):
    document = tmp_path / "validation.json"
    document.write_text(cli("validate", small, "--json").out)
    found = json.loads(document.read_text())["artifacts"]
    assert found == {item.format: item.sha256 for item in load_bundle(small).artifacts}
    text = page(small, "--measured", document)
    assert figures(text) == ["figure-sqnr", "figure-ranges", "figure-sensitivity", "figure-size"]
    assert "8 golden inputs: passed" in text
    report = load_bundle(small).report_dict()
    for row in (*report["layers"]["rows"], *report["costs"]["rows"], *report["sensitivity"]["rows"]):
        assert row["name"] in text


def test_a_pruned_build_with_zeros_within_a_budget(cli, page, tmp_path):
    finished = cli(
        *("build", f"{SPEC}:prunable", "--target", "linux-x86-64", "--format", "ptl", *TEXTURES),
        *("--prune", 0.3, "--sparsity", 0.25, "--min-sqnr-db", 1, "--output", tmp_path),
    )
    assert finished.status == 0, finished.err
    bundle = load_bundle(tmp_path / "linux-x86-64")
    text = page(bundle.path)
    expected = ["figure-sqnr", "figure-ranges", "figure-pareto", "figure-pruning", "figure-size"]
    assert figures(text) == expected
    # What is counted of the program is what pruning says is left.
    report = bundle.report_dict()
    assert report["costs"]["macs"] == report["pruning"]["after"]["macs"]
    assert 'id="sparsity"' in text


def test_other_precisions_and_all_side_by_side(build, page, small):
    in_float = build("small", "--format", "pte", "--precision", "fp32", data=None)
    dynamic = build("mlp", "--format", "onnx", "--precision", "int8-dynamic", data=None)
    for bundle in (in_float, dynamic):
        assert figures(page(bundle)) == ["figure-size"]
    assert figures(page(small, in_float, dynamic)) == ["figure-compared"]
