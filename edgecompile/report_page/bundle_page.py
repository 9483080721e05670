"""What the template of one bundle's page is filled with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgecompile.pruning.pruning_report import MEASURE_NAMES
from edgecompile.report_page.bar_plots import (
    pruning_figure,
    sensitivity_figure,
    size_figure,
    time_figure,
)
from edgecompile.report_page.before_after import before_after, key_numbers
from edgecompile.report_page.bundle_facts import BundleFacts
from edgecompile.report_page.layer_plots import range_figure, sqnr_figure
from edgecompile.report_page.svg_figure import PageFigure
from edgecompile.report_page.trial_plots import trial_figure

MOST_OPERATORS = 40  # of hundreds, the rest takes no time


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a page could show, and the command that measures it."""

    what: str
    command: str


def bundle_context(facts: BundleFacts) -> dict[str, Any]:
    """Return what the template needs."""
    report = facts.report
    figures = _figures(facts)
    operator_times = [
        (time_figure(f"figure-time-{number}", label, times.kinds), label, connection, times)
        for number, (connection, label, times) in enumerate(facts.operators(), 1)
    ]
    fall = report.layers.fall_text()
    return {
        "facts": facts,
        "keys": key_numbers(facts),
        "before_after": before_after(facts),
        "figures": figures,
        "operator_times": operator_times,
        "most_operators": MOST_OPERATORS,
        "fall_text": fall[:1].upper() + fall[1:],
        "measure": "" if report.pruning is None else MEASURE_NAMES[report.pruning.measure],
        "missing": tuple(_missing(facts)),
        "contents": tuple(_contents(facts, figures)),
    }


def _figures(facts: BundleFacts) -> dict[str, PageFigure | None]:
    report = facts.report
    rows = report.layers.rows
    return {
        "sqnr": sqnr_figure(report.layers) if rows else None,
        "ranges": range_figure(report.layers) if rows else None,
        "size": None if report.costs is None else size_figure(report.costs),
        "sensitivity": None if report.sensitivity is None else sensitivity_figure(report.sensitivity),
        "pruning": None if report.pruning is None else pruning_figure(report.pruning),
        "pareto": None if report.mixed_precision is None else trial_figure(report.mixed_precision),
    }


def _contents(facts: BundleFacts, figures: dict[str, PageFigure | None]) -> Iterator[tuple[str, str]]:
    report = facts.report
    sections = (
        ("summary", "Summary", True),
        ("before-after", "Before and after", True),
        ("findings", "Findings", report.findings or report.input_ranges),
        ("quality", "Quality", True),
        ("layers", "Layers", report.layers.rows),
        ("sensitivity", "Sensitivity", report.sensitivity),
        ("budget", "Budget", report.mixed_precision),
        ("pruning", "Pruning", report.pruning),
        ("sparsity", "Zeros in weights", report.sparsity),
        ("size", "Size by layer", figures["size"]),
        ("speed", "Speed", facts.measured.counts or facts.measured.times),
        ("why-not", "Not done, and why", True),
        ("how", "How it was built", True),
        ("environment", "Environment", True),
        ("missing", "Not in this report", any(True for _ in _missing(facts))),
    )
    yield from ((name, text) for name, text, there in sections if there)


def _missing(facts: BundleFacts) -> Iterator[Missing]:
    report, measured, path = facts.report, facts.measured, facts.bundle.path
    if not measured.counts:
        yield Missing(
            what="Executed instructions",
            command=f"edgecompile bench {path} --on emulator --instructions --json > instructions.json",
        )
    if not measured.times:
        yield Missing(what="Latency", command=f"edgecompile bench {path} --on adb --json > times.json")
    if not facts.operators():
        yield Missing(
            what="Time by operator", command=f"edgecompile bench {path} --per-op --json > operators.json"
        )
    if not measured.validated:
        yield Missing(
            what="Validation, layer by layer",
            command=f"edgecompile validate {path} --json > validation.json",
        )
    build = "edgecompile build MODEL --target " + facts.manifest.target
    if report.sensitivity is None and report.precision != "fp32":
        yield Missing(what="What the rounding of each layer costs", command=f"{build} --sensitivity")
    if report.costs is None:
        yield Missing(what="MACs and size by layer, which an earlier version did not count", command=build)
    if report.mixed_precision is None and report.precision == "int8":
        yield Missing(what="What a budget on quality costs", command=f"{build} --min-sqnr-db N")
    if report.pruning is None:
        yield Missing(what="Pruning", command=f"{build} --prune RATIO")
