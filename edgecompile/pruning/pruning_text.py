"""What was pruned, and groups of channels, as text for reports and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from edgecompile.pruning.pruning_report import (
    COSTS,
    MEASURE_NAMES,
    ModelGroups,
    PruningReport,
    RecoveryRow,
)
from edgecompile.text_table import render, table


def pruning_text(report: PruningReport) -> str:
    """Return what was removed, the proof, and how good what is left is beside the original."""
    measure = MEASURE_NAMES[report.measure]
    head = (
        f"pruned: {report.removed:.1%} of the {report.prunable / 1e6:.2f} M prunable {measure} are gone "
        f"({report.wanted:.1%} asked for)\n"
    )
    costs = table("", "before", "after", "left")
    for name in COSTS:
        before, after = getattr(report.before, name), getattr(report.after, name)
        share = f"{after / max(before, 1):.1%}"
        costs.add_row(MEASURE_NAMES[name], _millions(before), _millions(after), share)
    proof = (
        f"  proof: the same as zeroing the channels, to {report.proof_error:.1e} of the outputs' range "
        f"on {report.proof_samples} samples\n"
    )
    tables = (
        render(item)
        for item in (costs, recovery_table(report.recovery, report.accuracy), _left_table(report))
    )
    return "\n".join([head, proof, *tables])


def groups_text(found: ModelGroups) -> str:
    """Return all groups of a model, what they cost, and why some are kept."""
    filled = table("group", "layers", "width", "units", "can go", "MACs", "parameters", "why not all")
    for row in found.groups:
        filled.add_row(
            Text(row.name),
            str(len(row.layers)),
            str(row.width),
            str(row.units),
            str(row.removable),
            _millions(row.macs),
            _millions(row.parameters),
            Text("; ".join(row.reasons)),
        )
    shares = ", ".join(
        f"{_millions(getattr(found.prunable, name))} of {_millions(getattr(found.total, name))} "
        f"{MEASURE_NAMES[name]}"
        for name in COSTS
    )
    notes = (
        "  layers: those that make a group's channels; units: what can only be removed together; MACs and\n"
        "  parameters: of all layers that make or read them\n"
    )
    return "\n".join([render(filled), notes, f"pruning can change layers with {shares}\n"])


def recovery_table(rows: Sequence[RecoveryRow], accuracy: float | None) -> Table:
    """Return how good programs are beside the original, whose top-1 is given."""
    with_accuracy = accuracy is not None
    filled = table("in float", "SQNR", "top-1 as original", *(["top-1"] if with_accuracy else []))
    filled.add_row("original", "-", "-", *([_percent(accuracy)] if with_accuracy else []))
    for row in rows:
        sqnr = "exact" if row.sqnr_db is None else f"{row.sqnr_db:.2f} dB"
        own = [_percent(row.accuracy)] if with_accuracy else []
        filled.add_row(row.step, sqnr, _percent(row.agreement), *own)
    return filled


def _left_table(report: PruningReport) -> Table:
    filled = table("group", "units", "left", "share left")
    for row in report.groups:
        if row.left < row.units:
            filled.add_row(Text(row.name), str(row.units), str(row.left), f"{row.left / row.units:.0%}")
    return filled


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count / 1e3:.1f} k"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
