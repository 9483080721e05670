"""`inspect BUNDLE --why-not`: what was left, where, why, what it costs and what to change; bad reports."""

import dataclasses
import importlib.util
import json
import linecache
import re
import shutil
from collections import Counter
from pathlib import Path

import networks
import pytest
import torch
from torch import nn

from edgecompile.artifact import REPORT, load_bundle, sha256, write_manifest
from edgecompile.decline import decline, macs_of
from edgecompile.emitters.executorch import Executorch
from edgecompile.graph_edit import source_line
from edgecompile.inspect_artifact import inspect
from edgecompile.program import CapturedProgram, Reason
from edgecompile.quantize.static_int8 import keep_float
from edgecompile.target import EmitSettings

SDPA = "scaled_dot_product_attention"


@pytest.fixture(scope="module")
def bundle(build):
    """A transformer's block: normalization, attention and GELU are left by all formats in their own ways."""
    return build("block", data="token_rows")


@pytest.fixture(scope="module")
def split(build):
    """Operators outside the delegate: some that it has no rule for, and one that its rule refuses."""
    return build("sums", data="mlp_rows")


@pytest.fixture(scope="module")
def rows(cli, bundle):
    return inspect_rows(cli, bundle)


def inspect_rows(cli, folder):
    shown = cli("inspect", folder, "--why-not", "--json")
    assert (shown.status, shown.err) == (0, "")
    return json.loads(shown.out)["why_not"]


def of(rows, declined_by):
    return [row for row in rows if row["declined_by"] == declined_by]


def with_report(bundle, folder, report):
    """Write a bundle whose manifest and report agree, whatever that holds."""
    shutil.copytree(bundle, folder)
    data = json.dumps(report).encode()
    (folder / REPORT).write_bytes(data)
    manifest = load_bundle(folder).manifest
    write_manifest(folder, dataclasses.replace(manifest, files=manifest.files | {REPORT: sha256(data)}))
    return folder


def test_every_operator_outside_the_delegate_is_named(cli, split):
    """By the artifact's own bytes, not by what the build says."""
    contents = inspect(split / "networks.pte").artifacts[0].contents
    outside = Counter(contents.outside_delegate) + Counter(contents.copies)
    rows = of(inspect_rows(cli, split), "delegation (pte)")
    named = Counter(row["what"].partition(" (")[0] for row in rows)
    assert named == outside == {"aten::cumsum": 2, "aten::pow": 1}
    reasons = {row["what"]: row["reason"] for row in rows}
    assert "no rule for it" in reasons["aten::cumsum (cumsum_1)"]
    assert "only support power == 2" in reasons["aten::pow (pow_1)"]
    for row in rows:
        line = linecache.getline(networks.__file__, int(row["where"].rpartition(":")[2]))
        assert row["what"].partition("::")[2].partition(" ")[0] + "(" in line


def test_each_row_has_its_line_reason_and_change(rows):
    words = {"layer_norm": "norms[", SDPA: "attention", "gelu": "gelu", "mean": "mean(1)"}
    for row in rows:
        assert row["reason"] and row["change"]
        name, _, line = row["where"].partition(":")
        assert name == "networks.py"
        operator = row["what"].rpartition("(")[2].rstrip(")").removesuffix("_1")
        if operator in words:
            assert words[operator] in linecache.getline(networks.__file__, int(line))


def test_who_declined(rows):
    kinds = Counter(row["declined_by"] for row in rows)
    assert set(kinds) == {"quantization", "integer kernels (ptl)", "integer kernels (onnx)"}
    left = {row["what"].split()[0] for row in of(rows, "quantization")}
    assert left == {"layer_norm", SDPA, "permute", "view", "gelu", "mean"}
    # What the program has in float is no row of an engine that does as the program says, but for products.
    assert {row["what"].split()[0] for row in of(rows, "integer kernels (onnx)")} == {"FusedMatMul", "MatMul"}


def test_costs(rows):
    """Against the shapes: four heads of 16 on 12 tokens; linear layers of 64 to 64, 256 and 10."""
    attention = 2 * 4 * 12 * 12 * 16
    total = attention + 12 * (4 * 64 * 64 + 2 * 64 * 256) + 64 * 10
    by_name = {row["timed_as"]: row for row in of(rows, "quantization")}
    assert by_name[SDPA]["macs_share"] == pytest.approx(attention / total)
    assert by_name["layer_norm"]["macs_share"] is None
    assert by_name["layer_norm"]["moved_bytes"] == 4 * (12 * 64 * 2 + 64 * 2)
    assert by_name["gelu"]["moved_bytes"] == 4 * 12 * 256 * 2
    shares = [row["macs_share"] or 0 for row in rows]
    assert shares == sorted(shares, reverse=True)


def test_the_table(cli, bundle):
    shown = cli("inspect", bundle, "--why-not")
    assert shown.status == 0 and max(map(len, shown.out.splitlines())) <= 110
    assert "to change it: average over the last two axes" in shown.out
    (line,) = [line for line in shown.out.splitlines() if line.startswith(" quantization") and SDPA in line]
    assert "networks.py:" in line and "3.0% of MACs" in line and line.endswith("(1)")
    assert "not done" not in cli("inspect", bundle).out
    assert "why_not" not in json.loads(cli("inspect", bundle, "--json").out)


def test_times_are_those_of_the_formats_artifact(cli, split, tmp_path):
    artifacts = {item.format: item for item in load_bundle(split).artifacts}
    latency = {"p50": 1.0, "p90": 1.0}
    labels = {"pte": "one", "onnx": "two"}

    def time(name, share, calls=1):
        return {"name": name, "calls": calls, "milliseconds": 1.0, "share": share}

    times = {
        "pte": [
            time("cumsum.out", 0.2, 2),
            time("pow.Tensor_Scalar_out", 0.25),
            time("Softmax (NC) #1", 0.3),
        ],
        "onnx": [time("cumsum", 0.125), time("pow_1", 0.5)],
    }
    document = {
        "connection": "host",
        "threads": 1,
        "rounds": 1,
        "artifacts": [
            {
                "artifact": label,
                "format": name,
                "engine": artifacts[name].engine,
                "precision": "int8",
                "sha256": artifacts[name].sha256,
                "latency_ms": latency,
                "ratio": {"median": 1.0, "low": 1.0, "high": 1.0},
                "load_ms": 1.0,
                "first_inference_ms": 1.0,
                "model_memory_bytes": 1,
            }
            for name, label in labels.items()
        ],
        "operators": {label: {"kinds": [], "operators": times[name]} for name, label in labels.items()},
    }
    file = tmp_path / "times.json"
    file.write_text(json.dumps(document))
    shown = cli("inspect", split, "--why-not", "--measured", file, "--json")
    assert shown.status == 0, shown.err
    found = json.loads(shown.out)["why_not"]
    shares = {(row["declined_by"], row["what"]): row["time_share"] for row in found}
    assert shares["delegation (pte)", "aten::cumsum (cumsum)"] == 0.1
    assert shares["delegation (pte)", "aten::pow (pow_1)"] == 0.25
    assert shares["quantization", "cumsum (cumsum)"] == 0.125
    assert shares["quantization", "cumsum (cumsum_1)"] is None
    assert shares["integer kernels (ptl)", "cumsum (cumsum)"] is None
    text = cli("inspect", split, "--why-not", "--measured", file).out
    assert any("cumsum (cumsum)" in line and "12.5%" in line for line in text.splitlines())

    for item in document["artifacts"]:
        item["sha256"] = "0" * 64
    file.write_text(json.dumps(document))
    wrong = cli("inspect", split, "--why-not", "--measured", file)
    assert wrong.status == 2 and "error[measurement-mismatch]" in wrong.err
    wrong = cli("inspect", split, "--measured", file)
    assert wrong.status == 2 and "error[usage]" in wrong.err and "--why-not" in wrong.err


def test_a_report_of_an_earlier_version_has_no_costs(cli, bundle, tmp_path):
    report = load_bundle(bundle).report_dict()
    known = ("stage", "what", "where", "reason")
    report["why_not"] = [{key: row[key] for key in known} for row in report["why_not"]]
    report["why_not"][0]["what"] = "\x1b[2Jwiped"
    folder = with_report(bundle, tmp_path / "old", report)
    shown = cli("inspect", folder, "--why-not")
    assert shown.status == 0 and "\x1b" not in shown.out and "wiped" in shown.out
    assert "to change it" not in shown.out and "networks.py:" in shown.out
    assert all(row["macs_share"] is None for row in inspect_rows(cli, folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report.pop("why_not"), "build the bundle again"),
        (lambda report: report.update(why_not={}), "why_not"),
        (lambda report: report["why_not"][0].update(macs_share=1.5), "macs_share"),
        (lambda report: report["why_not"][0].update(moved_bytes=-1), "moved_bytes"),
        (lambda report: report["why_not"][0].update(costs=3), "unknown key"),
        (lambda report: report["why_not"][0].pop("reason"), "reason"),
    ],
)
def test_a_damaged_report(cli, bundle, tmp_path, change, said):
    report = load_bundle(bundle).report_dict()
    change(report)
    shown = cli("inspect", with_report(bundle, tmp_path / "bad", report), "--why-not")
    assert shown.status == 2 and shown.out == ""
    assert "error[invalid-report]" in shown.err and said in shown.err and "Traceback" not in shown.err


def test_a_report_that_is_missing_and_an_artifact_alone(cli, bundle, tmp_path):
    folder = tmp_path / "missing"
    shutil.copytree(bundle, folder)
    (folder / REPORT).unlink()
    shown = cli("inspect", folder, "--why-not")
    assert shown.status != 0 and "error[" in shown.err and "Traceback" not in shown.err
    shown = cli("inspect", bundle / "networks.pte", "--why-not")
    assert shown.status == 2 and "error[usage]" in shown.err
    shown = cli("inspect", f"{networks.__file__}:block", "--groups", "--why-not")
    assert shown.status == 2 and "error[usage]" in shown.err


def test_nothing_left(cli, build):
    folder = build("small", "--format", "pte")
    shown = cli("inspect", folder, "--why-not")
    assert shown.status == 0 and "everything was fused, quantized and delegated" in shown.out
    assert inspect_rows(cli, folder) == []


@pytest.mark.parametrize("users_code", [True, False])
def test_a_library_is_not_the_users_model(tmp_path, users_code):
    """The line that calls a library's network; with none, the module in it."""
    library = tmp_path / "lib" / "site-packages" / "library.py"
    library.parent.mkdir(parents=True)
    library.write_text(
        "import torch\n"
        "class Gate(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.tanh(x)\n"
    )
    spec = importlib.util.spec_from_file_location("library", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = module.Gate()

        def forward(self, x):
            return self.gate(x) + 1

    model = Own() if users_code else nn.Sequential(module.Gate())
    program = torch.export.export(model, (torch.rand(1, 3),))
    (tanh,) = (node for node in program.graph.nodes if node.target is torch.ops.aten.tanh.default)
    where = source_line(tanh)
    if users_code:
        name, _, line = where.partition(":")
        assert name == "test_why_not.py" and "self.gate(x) + 1" in linecache.getline(__file__, int(line))
    else:
        assert where == "0"


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (1, 4, 8, 8), 6 * 2 * 9 * 64),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 8, 8), 4 * 6 * 4 * 64),
        (nn.Conv1d(3, 5, 3), (1, 3, 10), 5 * 3 * 3 * 8),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.Linear(7, 5, bias=False), (2, 3, 7), 2 * 3 * 7 * 5),
        (nn.ReLU(), (2, 3), 0),
    ],
)
def test_macs_are_the_same_before_and_after_decomposition(model, shape, macs):
    program = torch.export.export(model.eval(), (torch.rand(shape),))
    for form in (program, program.run_decompositions()):
        assert sum(macs_of(node) for node in form.graph.nodes if node.op == "call_function") == macs


def test_the_documentation_lists_what_the_delegate_takes():
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    listed = page.partition("### What XNNPACK takes")[2].split("\n\n")[2]
    rules = {rule.target_name.partition(".")[0].lstrip("_") for rule in ALL_PARTITIONER_CONFIGS}
    assert set(re.findall(r"`(\w+)`", listed)) == rules


def test_a_reason_says_what_to_change_and_a_string_says_nothing():
    program = torch.export.export(nn.Tanh(), (torch.rand(2, 3),))
    (node,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.tanh.default)
    row = decline(node, Reason("why", change="do"))
    assert (row.what, row.reason, row.change, row.moved_bytes) == ("tanh (tanh)", "why", "do", 48)
    assert type(row.reason) is str
    assert decline(node, "why", what="it").change == ""


def test_without_a_delegate_every_operator_is_outside_and_no_partitioner_is_blamed():
    program = CapturedProgram(
        name="net", exported=torch.export.export(nn.ReLU(), (torch.rand(2, 3),)), steps=()
    )
    settings = EmitSettings(emitter="executorch", delegate="")
    emitted, foreseen = (
        method(keep_float(program), settings) for method in (Executorch.emit, Executorch.foresee)
    )
    (row,) = emitted.declined
    assert row.what == "aten::relu (relu)" and row.reason == "runs outside the delegate: the target has none"
    assert (foreseen.declined, foreseen.delegates) == (emitted.declined, emitted.delegates) == ((row,), {})
