"""`build --plan`: what it predicts is what the build then makes; it reads no data and writes no bundle."""

import json

import networks
import pytest

from edgecompile.artifact import load_bundle

SPEC = networks.__file__
DATA = {
    "small": "pictures",
    "several": "several_inputs",
    "block": "token_rows",
    "tied": "tied_rows",
    "sums": "mlp_rows",
    "prunable": "textures",
    "outlier": "spikes",
}


@pytest.fixture(scope="session")
def predicted(cli, tmp_path_factory):
    """Return what `--plan` predicts of a network; that data is given must not matter."""

    def run(network, *options):
        output = tmp_path_factory.mktemp("planned")
        data = ("--calibration", f"{SPEC}:wrong_pictures")
        model = (
            "build",
            f"{SPEC}:{network}",
            "--target",
            "android-arm64",
            *data,
            "--output",
            output / "none",
        )
        finished = cli(*model, *options, "--plan", "--json")
        assert finished.status == 0, finished.err
        assert not list(output.iterdir())
        (coverage,) = json.loads(finished.out)["coverage"]
        return coverage

    return run


def rows_of(document, stage):
    return [{key: row[key] for key in ("what", "where", "reason", "change", "macs_share", "moved_bytes")}
            for row in document if row["stage"] == stage]  # fmt: skip


@pytest.mark.parametrize("network", DATA)
def test_the_build_makes_what_the_plan_predicts(network, predicted, build):
    formats = ("--format", "pte", "--format", "ptl")
    coverage = predicted(network, *formats)
    bundle = load_bundle(build(network, *formats, data=DATA[network]))
    report = bundle.report_dict()
    for stage in ("quantize", "emit pte", "emit ptl", *(step["name"] for step in report["steps"])):
        assert rows_of(coverage["why_not"], stage) == rows_of(report["why_not"], stage)
    assert coverage["delegates"] == {item.format: item.delegates for item in bundle.artifacts}
    assert coverage["macs"] == report["costs"]["macs"]
    in_float = {row["timed_as"] for row in report["why_not"] if row["stage"] == "quantize"}
    integer = sum(row["macs"] for row in report["costs"]["rows"] if row["name"] not in in_float)
    assert coverage["quantized_macs_share"] == pytest.approx(integer / coverage["macs"])
    assert coverage["quantized"] == coverage["operators"] - len(in_float)


def test_products_of_the_equalization_are_not_foreseen(predicted, build):
    """All else is: the products that are put beside a hardswish depend on the data."""
    coverage = predicted("uneven", "--format", "pte")
    assert any("products" in note for note in coverage["notes"])
    bundle = load_bundle(build("uneven", "--format", "pte", data="textures"))
    report = bundle.report_dict()

    def left(rows):
        own = [row for row in rows if row["stage"] == "quantize"]
        return [(row["what"].split()[0], row["where"], row["reason"]) for row in own]

    products = ("one operand is a factor for each channel", "its input is in float")  # and what reads one
    built = [row for row in left(report["why_not"]) if row[2] not in products]
    assert left(coverage["why_not"]) == built != left(report["why_not"])
    assert coverage["delegates"] == {"pte": bundle.artifacts[0].delegates} == {"pte": {"xnnpack": 1}}
    assert coverage["macs"] == report["costs"]["macs"] and coverage["quantized_macs_share"] == 1


def test_operators_outside_the_delegate_are_predicted(predicted):
    coverage = predicted("sums", "--format", "pte")
    rows = [row for row in coverage["why_not"] if row["stage"] == "emit pte"]
    assert [row["what"] for row in rows] == [
        *("aten::cumsum (cumsum)", "aten::cumsum (cumsum_1)"),
        "aten::pow (pow_1)",
    ]
    assert "no rule for it" in rows[0]["reason"] and "only support power == 2" in rows[2]["reason"]
    assert all(row["change"] for row in rows) and coverage["delegates"] == {"pte": {"xnnpack": 4}}


@pytest.mark.parametrize(
    ("precision", "quantized"), [("fp32", 0), ("int8-dynamic", 3), ("int8-weights", 3), ("int4-weights", 3)]
)
def test_other_precisions(precision, quantized, predicted):
    coverage = predicted("mlp", "--precision", precision, "--format", "onnx")
    assert (coverage["operators"], coverage["quantized"]) == (5, quantized)
    assert coverage["quantized_macs_share"] == (1 if quantized else 0)
    assert coverage["unknown"] == ["onnx"] and coverage["delegates"] == {}


def test_the_text_says_that_it_is_a_prediction(cli, tmp_path):
    common = ("build", f"{SPEC}:block", "--target", "android-arm64", "--calibration", f"{SPEC}:token_rows")
    outside = cli("build", f"{SPEC}:sums", *common[2:], "--output", tmp_path / "none", "--plan").out
    assert "pte: 4 xnnpack calls, 3 operators outside the delegate: 2 aten::cumsum, 1 aten::pow" in outside
    shown = cli(*common, "--output", tmp_path / "none", "--plan", "--prune", 0.5, "--min-sqnr-db", 20)
    assert shown.status == 0, shown.err
    lines = shown.out.splitlines()
    start = lines.index("coverage of android-arm64, predicted: 97.0% of MACs and 15 of 22 operators in int8")
    assert lines[start + 1].startswith("  pte: 1 xnnpack call, no operators outside the delegate")
    assert lines[start + 3] == "  onnx: only the build tells"
    notes = [line for line in lines[start:] if line.startswith("  note: ")]
    assert ["products" in notes[0], "before pruning" in notes[1], "budget" in notes[2]] == [True] * 3
    assert any("layer_norm (layer_norm)" in line and "networks.py:" in line for line in lines[start:])
    assert not (tmp_path / "none").exists()


def test_a_model_that_cannot_be_captured(cli, tmp_path):
    model = tmp_path / "branching.py"
    model.write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x if float(x.sum()) > 0 else -x\n"
        "def make():\n"
        "    return Branching(), (torch.rand(1, 3),)\n"
    )
    shown = cli("build", f"{model}:make", "--target", "android-arm64", "--precision", "fp32", "--plan")
    assert shown.status == 3 and "error[" in shown.err and "Traceback" not in shown.err
    assert "setting" in shown.out and "coverage" not in shown.out
