"""What the template of the page that compares several bundles is filled with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecompile.report_page import shown
from edgecompile.report_page.before_after import costs, measures
from edgecompile.report_page.bundle_facts import BundleFacts
from edgecompile.report_page.shown_table import Cell, Row, ShownTable, row
from edgecompile.report_page.trial_plots import Placed, compared_figure, compared_layers_figure
from edgecompile.setting import show_value


def comparison_context(bundles: Sequence[BundleFacts]) -> dict[str, Any]:
    """Return what the template needs."""
    layers = compared_layers_figure([(facts.letter, facts.report.layers) for facts in bundles])
    return {
        "bundles": bundles,
        "kinds": _kinds(bundles),
        "program": _program(bundles),
        "tables": [_format_table(bundles, name) for name in _formats(bundles)],
        "same": _settings(bundles, same=True),
        "different": _settings(bundles, same=False),
        "placed": compared_figure(
            [
                Placed(
                    series=facts.letter,
                    format=item.format,
                    size_bytes=item.size_bytes,
                    sqnr_db=found.against_float.sqnr_db,
                )
                for facts in bundles
                if facts.report.precision != "fp32"  # its error is no quantization's, and off the scale
                for item in facts.artifacts
                if (found := facts.quality(item)) is not None and found.against_float is not None
            ]
        ),
        "layers": layers,
        "contents": [
            ("summary", "Summary"),
            ("artifacts", "Artifacts"),
            *([("layers", "Layers")] if layers else []),
            ("differences", "Settings that differ"),
            ("why-not", "Not done, and why"),
            ("environment", "Environment"),
        ],
    }


def _formats(bundles: Sequence[BundleFacts]) -> list[str]:
    return list(dict.fromkeys(item.format for facts in bundles for item in facts.artifacts))


def _kinds(bundles: Sequence[BundleFacts]) -> str:
    """Say what the bundles have in common."""
    names = list(dict.fromkeys(facts.manifest.name for facts in bundles))
    targets = list(dict.fromkeys(facts.manifest.target for facts in bundles))
    return f"{', '.join(names)} for {', '.join(targets)}"


def _program(bundles: Sequence[BundleFacts]) -> ShownTable:
    """Return what the bundles' programs are, whatever was emitted from them."""

    def each(name: str, text: Any) -> list[Row]:
        return row(name, [Cell(text=text(facts)) for facts in bundles])

    after = {facts.letter: costs(facts)[1] for facts in bundles}
    found = [
        *each("MACs per sample", lambda facts: shown.count(getattr(after[facts.letter], "macs", None))),
        *each("parameters", lambda facts: shown.count(getattr(after[facts.letter], "parameters", None))),
        *each("weights in float", lambda facts: shown.size(facts.report.float_weight_bytes)),
        *each("quantized layers", lambda facts: str(_quantized(facts))),
        *each("layers kept in float", _kept),
        *each("MACs pruned", _pruned),
        *each("SQNR in float to the model as given", _recovered),
        *each("lowest SQNR of a layer", _lowest),
        *each("quality falls first at", lambda facts: facts.report.layers.first_fall or shown.NONE),
        *each("findings", lambda facts: str(len(facts.report.findings))),
        *each("declined", lambda facts: str(len(facts.report.why_not))),
        *each("thresholds missed", lambda facts: str(len(facts.missed))),
    ]
    heads = ("measure", *(facts.letter for facts in bundles))
    return ShownTable(
        caption="The programs that the artifacts are lowered from.", heads=heads, rows=tuple(found)
    )


def _format_table(bundles: Sequence[BundleFacts], name: str) -> ShownTable:
    """Return the artifacts of one format, side by side."""
    found: dict[str, dict[str, Cell]] = {}
    for facts in bundles:
        for measure in measures(facts):
            for item, cell in zip(facts.artifacts, measure.cells, strict=True):
                if item.format == name:
                    found.setdefault(measure.name, {})[facts.letter] = cell
    rows = [
        built
        for title, cells in found.items()
        for built in row(title, [cells.get(facts.letter, Cell()) for facts in bundles])
    ]
    heads = ("measure", *(facts.letter for facts in bundles))
    return ShownTable(caption=f"The .{name} of each bundle.", heads=heads, rows=tuple(rows))


def _settings(bundles: Sequence[BundleFacts], *, same: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the settings that all bundles share, or that they do not: values with their origins."""
    names = list(dict.fromkeys(item.name for facts in bundles for item in facts.manifest.settings))
    found = []
    for name in names:
        own = [
            next(((item.value, item.origin) for item in facts.manifest.settings if item.name == name), None)
            for facts in bundles
        ]
        alike = all(item is not None and own[0] is not None and item[0] == own[0][0] for item in own)
        if alike == same:
            cells = [(shown.NONE, "") if item is None else (show_value(item[0]), item[1]) for item in own]
            found.append((name, cells))
    return found


def _quantized(facts: BundleFacts) -> int:
    return sum(step.rewrites for step in facts.report.steps if step.name == "quantize")


def _kept(facts: BundleFacts) -> str:
    mixed = facts.report.mixed_precision
    return shown.NONE if mixed is None else f"{len(mixed.layers)} of {mixed.quantizable}"


def _pruned(facts: BundleFacts) -> str:
    pruning = facts.report.pruning
    if pruning is None or not pruning.before.macs:
        return shown.NONE
    return shown.percent(1 - pruning.after.macs / pruning.before.macs, 1)


def _recovered(facts: BundleFacts) -> str:
    """Say how good the program is, in float, that was pruned or got zeros."""
    change = facts.report.pruning or facts.report.sparsity
    return shown.decibels(change.recovery[-1].sqnr_db) if change and change.recovery else shown.NONE


def _lowest(facts: BundleFacts) -> str:
    known = [row.sqnr_db for row in facts.report.layers.rows if row.sqnr_db is not None]
    return shown.decibels(min(known)) if known else shown.NONE
