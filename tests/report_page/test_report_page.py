"""`edgecompile report` without a browser: what is in the page, where it goes, and bad input."""

import dataclasses
import html
import importlib
import json
import re
import subprocess
import sys

import pytest
import written_bundle as written

from edgecompile.artifact import REPORT, load_bundle, sha256, write_manifest


def section(page: str, name: str) -> str:
    """Return the text of a section, without its markup."""
    found = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)
    return "" if found is None else html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", found[0])))


def test_the_page_goes_to_the_current_folder_and_the_bundle_stays_as_it_is(report, bundle, tmp_path):
    before = {path: path.read_bytes() for path in bundle.rglob("*")}
    finished = report(bundle)
    assert (finished.status, finished.out, finished.err) == (0, "net-android-arm64.html\n", "")
    assert [path.name for path in (tmp_path / "current").iterdir()] == ["net-android-arm64.html"]
    assert {path: path.read_bytes() for path in bundle.rglob("*")} == before
    document = json.loads(report(bundle, "-o", "page.html", "--json").out)
    assert document == {"page": "page.html", "size_bytes": (tmp_path / "current/page.html").stat().st_size}


def test_a_name_of_the_manifest_leads_to_no_other_folder(report, tmp_path):
    bundle = written.write_bundle(tmp_path / "b", written.full_report(name="../../up/\x00net"))
    assert report(bundle).out == "_.._up__net-android-arm64.html\n"


def test_what_was_built_stands_in_the_page(report, bundle, tmp_path):
    report(bundle, "-o", "page.html")
    page = (tmp_path / "current/page.html").read_text()
    assert "Every threshold of android-arm64 holds" in section(page, "summary")
    assert "\N{REPLACEMENT CHARACTER}" not in page  # a space that does not break is no control character
    before_after = section(page, "before-after")
    for said in ("model as given", "pruned model in float", "80 k", "66 k", "82.5%", "83.00%", "80.00%"):
        assert said in before_after, said
    assert "It has 3 samples only." in section(page, "findings")
    assert "in float: no kernel for it" in section(page, "layers")
    why_not = section(page, "why-not")
    for said in (
        "no kernel for it",
        "quantization",
        "leave it out",
        "2.5 KB moved",
        "delegation (pte)",
        "12.5%",
    ):
        assert said in why_not, said
    assert "cost why" in why_not
    assert "flag --output" in section(page, "how") and "2.13.0" in section(page, "environment")
    for item in load_bundle(bundle).artifacts:
        assert item.sha256 in section(page, "environment")


def test_what_was_left_has_its_measured_time(report, bundle, tmp_path):
    row = written.measured_row(bundle)
    document = written.times(row)
    spent = {"name": "bmm.out", "calls": 2, "milliseconds": 1.0, "share": 0.5}
    document["operators"][row["artifact"]]["operators"] = [spent]
    (tmp_path / "times.json").write_text(json.dumps(document))
    report(bundle, "-o", "page.html", "--measured", tmp_path / "times.json")
    why_not = section((tmp_path / "current/page.html").read_text(), "why-not")
    assert "cost time why" in why_not and "12.5% of MACs 25.0%" in why_not


def test_a_missed_threshold_is_the_verdict(report, tmp_path):
    full = written.full_report()
    rows = (*full.quality[:-1], written.quality_row("onnx", missed=("an SQNR of 9 dB, 25 are wanted",)))
    bundle = written.write_bundle(tmp_path / "b", dataclasses.replace(full, quality=rows))
    report(bundle, "-o", "page.html")
    summary = section((tmp_path / "current/page.html").read_text(), "summary")
    assert "1 threshold is missed" in summary and "onnx: an SQNR of 9 dB, 25 are wanted" in summary


def test_what_was_not_measured_is_left_out_with_the_command_that_measures_it(report, tmp_path):
    full = written.full_report(
        costs=None, sensitivity=None, mixed_precision=None, pruning=None, sparsity=None
    )
    bundle = written.write_bundle(tmp_path / "b", full)
    report(bundle, "-o", "page.html")
    page = (tmp_path / "current/page.html").read_text()
    for name in ("sensitivity", "budget", "pruning", "sparsity", "size", "speed"):
        assert section(page, name) == "" and f'href="#{name}"' not in page
    for name in ("figure-sensitivity", "figure-pareto", "figure-pruning", "figure-size"):
        assert f'id="{name}"' not in page
    missing = section(page, "missing")
    for said in ("--instructions", "--per-op", "validate", "--sensitivity", "--prune", "--min-sqnr-db"):
        assert said in missing
    assert "MACs" not in section(page, "before-after")


def test_a_program_without_quantized_layers(report, tmp_path):
    full = written.full_report(sensitivity=None, mixed_precision=None, pruning=None, sparsity=None)
    nothing = dataclasses.replace(full.layers, samples=0, rows=(), first_fall=None)
    exact = dataclasses.replace(
        full, precision="fp32", layers=nothing, quality=(full.quality[0], written.quality_row("pte", None))
    )
    report(written.write_bundle(tmp_path / "b", exact), "-o", "page.html")
    page = (tmp_path / "current/page.html").read_text()
    assert section(page, "layers") == "" and "exact" in section(page, "quality")


def test_measurements_are_shown_beside_what_they_measured(report, bundle, tmp_path):
    other = written.write_bundle(tmp_path / "other", written.full_report())
    rows = (written.measured_row(bundle), written.measured_row(other, precision="fp32"))
    given = [
        part
        for name, document in (
            ("times", written.times(*rows)),
            ("counts", written.counts(*rows)),
            ("validated", written.validated(bundle)),
        )
        for part in ("--measured", written.write_document(tmp_path / name, document))
    ]
    assert report(bundle, *given, "-o", "page.html").status == 0
    page = (tmp_path / "current/page.html").read_text()
    before_after = section(page, "before-after")
    for said in ("instructions per inference, emulator (cortex-a76)", "51.4 M", "0.50 \u00d7 FP32"):
        assert said in before_after, said
    assert "latency, ssh:board" in before_after and "0.67 \u00d7 FP32" in before_after
    assert "other/net.pte of another bundle" in section(page, "speed")
    assert "Conv (NHWC) GEMM" in section(page, "speed")
    assert "8 golden inputs: passed" in section(page, "summary")


def test_a_failed_validation_is_the_verdict(report, bundle, tmp_path):
    document = written.write_document(tmp_path / "failed", written.validated(bundle, passed=False))
    report(bundle, "--measured", document, "-o", "page.html")
    summary = section((tmp_path / "current/page.html").read_text(), "summary")
    assert "pte, validated: 1 layers differ from the reference, first conv2d_0" in summary
    assert "failed" in summary


def test_several_bundles_are_compared(report, bundle, tmp_path):
    other = written.write_bundle(tmp_path / "other", written.full_report(count=7, pruning=None))
    counts = written.counts(written.measured_row(bundle), written.measured_row(other))
    document = written.write_document(tmp_path / "counts", counts)
    finished = report(bundle, other, "--measured", document)
    assert (finished.status, finished.out) == (0, "edgecompile-comparison.html\n")
    page = (tmp_path / "current/edgecompile-comparison.html").read_text()
    artifacts = section(page, "artifacts")
    assert "51.4 M" in artifacts and "102.8 M" in artifacts
    differences = section(page, "differences")
    assert "output bundle flag --output other flag --output" in differences
    assert "1 settings are the same" in differences


def test_hundreds_of_layers_make_no_large_page(report, tmp_path):
    bundle = written.write_bundle(tmp_path / "b", written.full_report(count=400))
    report(bundle, "-o", "page.html")
    assert (tmp_path / "current/page.html").stat().st_size < 1_500_000


def test_the_same_bundle_gives_the_same_page(report, bundle, tmp_path):
    for name in ("one.html", "two.html"):
        report(bundle, "-o", name)
    assert (tmp_path / "current/one.html").read_bytes() == (tmp_path / "current/two.html").read_bytes()


def changed_report(folder, change):
    """Write a bundle whose report is changed, and whose manifest agrees."""
    bundle = written.write_bundle(folder, written.full_report())
    document = json.loads((bundle / REPORT).read_bytes())
    change(document)
    data = json.dumps(document).encode()
    (bundle / REPORT).write_bytes(data)
    manifest = load_bundle(bundle).manifest
    write_manifest(bundle, dataclasses.replace(manifest, files=manifest.files | {REPORT: sha256(data)}))
    return bundle


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda report: report.pop("quality"), "quality"),
        (lambda report: report.update(samples="many"), "samples"),
        (lambda report: report.update(odd=1), "odd"),
        (lambda report: report["layers"]["rows"][0].update(scale=float("nan")), "scale"),
        (lambda report: report["costs"]["rows"][1].update(weight_bytes=-1), "costs.rows[1].weight_bytes"),
        (lambda report: report["mixed_precision"]["trials"][0].update(sqnr_db=float("inf")), "trials[0]"),
        (lambda report: report["pruning"]["groups"][2].pop("left"), "left"),
        (lambda report: report["sensitivity"]["rows"][0].update(alone_sqnr_db=-1e308), "alone_sqnr_db"),
    ],
)
def test_a_damaged_report(report, tmp_path, change, said):
    finished = report(changed_report(tmp_path / "b", change))
    assert finished.status == 2 and "error[invalid-report]" in finished.err and said in finished.err
    assert list((tmp_path / "current").iterdir()) == []


def test_an_altered_file_or_no_bundle(report, bundle, tmp_path):
    (bundle / "net.pte").write_bytes(b"other")
    assert "error[altered-file]" in report(bundle).err
    finished = report(tmp_path)
    assert finished.status == 2 and "error[not-a-bundle]" in finished.err
    assert "error[usage]" in report(bundle, bundle.parent / "bundle").err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "a JSON list"),
        ('{"artifacts": []}', "'artifacts'"),
        ('{"artifacts": [{"latency_ms": {}}], "connection": "host"}', "missing"),
        ('{"passed": true, "quality": 3}', "quality"),
    ],
)
def test_a_file_that_is_no_measurement(report, bundle, tmp_path, text, said):
    path = tmp_path / "measured.json"
    path.write_text(text)
    finished = report(bundle, "--measured", path)
    assert finished.status == 2 and "error[invalid-measurement]" in finished.err
    assert said in finished.err and str(path) in finished.err


def test_a_measurement_that_cannot_be_read_or_is_negative(report, bundle, tmp_path):
    finished = report(bundle, "--measured", tmp_path / "nothing.json")
    assert "error[invalid-measurement]" in finished.err and "No such file" in finished.err
    document = written.counts(written.measured_row(bundle))
    document["artifacts"][0]["instructions"]["per_inference"] = -5
    path = written.write_document(tmp_path / "negative.json", document)
    assert "per_inference" in report(bundle, "--measured", path).err


@pytest.mark.parametrize("kind", ["times", "counts", "validated"])
def test_a_measurement_of_another_bundle(report, bundle, tmp_path, kind):
    other = written.write_bundle(tmp_path / "other", written.full_report())
    made = (
        written.validated(other)
        if kind == "validated"
        else getattr(written, kind)(written.measured_row(other))
    )
    finished = report(bundle, "--measured", written.write_document(tmp_path / "m.json", made))
    assert finished.status == 2 and "error[measurement-mismatch]" in finished.err
    assert sha256((bundle / "net.pte").read_bytes())[:12] in finished.err


def test_where_the_page_cannot_go(report, bundle, tmp_path):
    for place, said in (
        (bundle / "manifest.json", "a file of the bundle"),
        (bundle / "goldens/../net.pte", "a file of the bundle"),
        (tmp_path, "a folder"),
        (tmp_path / "none/page.html", "cannot be written"),
    ):
        finished = report(bundle, "-o", place)
        assert finished.status == 2 and "error[output-not-writable]" in finished.err, place
        assert said in finished.err
    load_bundle(bundle).verify()


def test_without_matplotlib_the_extra_is_named(report, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finished = report(bundle)
    assert finished.status == 5 and "error[tool-missing]" in finished.err
    assert "pip install 'edgecompile[report]'" in finished.err


def test_nothing_that_builds_imports_what_draws():
    code = (
        "import sys, edgecompile.compile, edgecompile.report, edgecompile.validate, edgecompile.bench;"
        "sys.exit('matplotlib' in sys.modules or 'edgecompile.report_page' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_needs_no_torch(bundle, tmp_path):
    code = (
        "import sys; from edgecompile.cli.main import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    arguments = ["report", str(bundle), "-o", str(tmp_path / "page.html")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_what_is_shown_of_numbers():
    shown = importlib.import_module("edgecompile.report_page.shown")
    assert [shown.size(number) for number in (None, 12, 1234, 3_760_000)] == [
        "\u2013", "12\u00a0B", "1.23\u00a0KB", "3.76\u00a0MB"
    ]  # fmt: skip
    assert [shown.percent(share) for share in (None, 0, 1e-9, 0.5)] == ["\u2013", "0.00%", "<0.01%", "50.00%"]
    assert [shown.count(number) for number in (7, 51_412_438, 3e9)] == ["7", "51.41\u00a0M", "3\u00a0G"]
    assert [shown.milliseconds(number) for number in (0.1234, 4.1, 123.4)] == [
        "0.123\u00a0ms", "4.10\u00a0ms", "123\u00a0ms"
    ]  # fmt: skip
