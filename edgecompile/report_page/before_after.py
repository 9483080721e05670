"""The table of the float model beside each artifact, and the few numbers that stand above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgecompile.pruning.pruning_report import Cost
from edgecompile.report_page import shown
from edgecompile.report_page.bundle_facts import BundleFacts
from edgecompile.report_page.report_document import ClosenessRow, QualityRow
from edgecompile.report_page.shown_table import Cell, Row, ShownTable, row


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """A number that stands above all else."""

    name: str
    figure: str
    note: str = ""


def before_after(facts: BundleFacts) -> ShownTable:
    """Return the float model and every artifact in all that is known of them."""
    return ShownTable(
        caption="The float model, and each artifact in its engine. Ratios are to the FP32 artifact of that "
        "format that was measured in the same run.",
        heads=("", "float model", *(f".{item.format}" for item in facts.artifacts)),
        rows=tuple(rows(facts, with_float=True)),
    )


def rows(facts: BundleFacts, *, with_float: bool) -> Iterator[Row]:
    """Yield a row for each measure: a cell for the float model, if that is wanted, and for each artifact."""

    def line(name: str, of_float: Cell, cells: Sequence[Cell]) -> list[Row]:
        return row(name, [of_float, *cells] if with_float else cells)

    items, of_float = facts.artifacts, facts.of_float
    qualities = [facts.quality(item) for item in items]
    weights = facts.report.float_weight_bytes
    yield from line("size", Cell(text=shown.size(weights), beside="its weights"), [
        Cell(text=shown.size(item.size_bytes), beside=_of_float(item.size_bytes, weights)) for item in items
    ])  # fmt: skip
    before, after = costs(facts)
    for title, name in (("MACs per sample", "macs"), ("parameters", "parameters")):
        was, now = (getattr(cost, name, None) for cost in (before, after))
        beside = "" if was == now else _of_float(now, was)
        cell = Cell(text=shown.count(now), beside=beside)  # all are lowered from one program
        yield from line(title, Cell(text=shown.count(was)), [cell for _ in items])
    yield from line("top-1", Cell(text=shown.percent(_get(of_float, "accuracy"))), [
        Cell(text=shown.percent(_get(quality, "accuracy"))) for quality in qualities
    ])  # fmt: skip
    close = [None if quality is None else quality.against_float for quality in qualities]
    closeness: tuple[tuple[str, Callable[[ClosenessRow], str]], ...] = (
        ("SQNR", lambda found: shown.decibels(found.sqnr_db)),
        ("top-1 as float", lambda found: shown.percent(found.agreement)),
        ("largest error", lambda found: shown.number(found.max_abs_error)),
    )
    for title, show in closeness:
        cells = [Cell() if found is None else Cell(text=show(found)) for found in close]
        yield from line(title, Cell(), cells)
    yield from line("outputs equal to the reference", Cell(), [
        Cell(text=shown.percent(_get(quality, "identical"))) for quality in qualities
    ])  # fmt: skip
    for title, cells in _measured(facts):
        yield from line(title, Cell(), cells)


def _measured(facts: BundleFacts) -> Iterator[tuple[str, list[Cell]]]:
    """Yield what was measured of the artifacts, on each connection."""
    for counts in facts.measured.counts:
        counted = [facts.counted(counts, item) for item in facts.artifacts]
        yield (
            f"instructions per inference, {counts.connection}",
            [
                Cell()
                if found is None
                else Cell(text=shown.count(found[0].instructions.per_inference), beside=_to_fp32(found[1]))
                for found in counted
            ],
        )
    for times in facts.measured.times:
        timed = [facts.timed(times, item) for item in facts.artifacts]
        threads = f", {times.threads} threads" if times.threads != 1 else ""
        yield (
            f"latency, {times.connection}{threads}",
            [
                Cell()
                if found is None
                else Cell(text=shown.milliseconds(found[0].latency_ms.p50), beside=_to_fp32(found[1]))
                for found in timed
            ],
        )
        memory = [None if found is None else found[0].model_memory_bytes for found in timed]
        yield f"memory of the model, {times.connection}", [Cell(text=shown.size(item)) for item in memory]


def key_numbers(facts: BundleFacts) -> list[KeyNumber]:
    """Return what a reader looks for first, of the first artifact."""
    if not facts.artifacts:
        return []
    first, report = facts.artifacts[0], facts.report
    quality, of_float = facts.quality(first), facts.of_float
    weights = report.float_weight_bytes
    share = f"{shown.percent(first.size_bytes / weights, 0)} of the float weights" if weights else ""
    found = [KeyNumber(name=f"size of .{first.format}", figure=shown.size(first.size_bytes), note=share)]
    if quality is not None and quality.accuracy is not None and of_float is not None:
        note = f"the float model has {shown.percent(of_float.accuracy, 1)}"
        found.append(KeyNumber(name="top-1", figure=shown.percent(quality.accuracy, 1), note=note))
    if quality is not None and quality.against_float is not None:
        close = quality.against_float
        note = f"top-1 as float in {shown.percent(close.agreement, 1)}" if close.agreement is not None else ""
        found.append(KeyNumber(name="SQNR to float", figure=shown.decibels(close.sqnr_db), note=note))
    before, after = costs(facts)
    if after is not None:
        changed = before is not None and before.macs != after.macs
        note = _of_float(after.macs, before.macs) if before is not None and changed else "as the float model"
        found.append(KeyNumber(name="MACs per sample", figure=shown.count(after.macs), note=note))
    for counts in facts.measured.counts[:1]:
        own = facts.counted(counts, first)
        if own is not None:
            note = _to_fp32(own[1]) or counts.connection
            figure = shown.count(own[0].instructions.per_inference)
            found.append(KeyNumber(name="instructions", figure=figure, note=note))
    for times in facts.measured.times[:1]:
        timed = facts.timed(times, first)
        if timed is not None:
            note = f"on {times.connection}" + (f", {_to_fp32(timed[1])}" if timed[1] is not None else "")
            figure = shown.milliseconds(timed[0].latency_ms.p50)
            found.append(KeyNumber(name="latency", figure=figure, note=note))
    return found


def costs(facts: BundleFacts) -> tuple[Cost | None, Cost | None]:
    """Return what the float model costs and what the artifacts do; None where that is not known.

    Parameters before are those after the passes where nothing was pruned: these fold some away.
    """
    report = facts.report
    after = None
    if report.costs is not None:
        after = Cost(macs=report.costs.macs, parameters=report.costs.parameters)
    return (after if report.pruning is None else report.pruning.before), after


def _of_float(now: float | None, before: float | None) -> str:
    return f"{shown.percent(now / before, 1)} of float" if now is not None and before else ""


def _get(quality: QualityRow | None, name: str) -> float | None:
    found: float | None = getattr(quality, name, None)
    return found


def _to_fp32(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN} FP32"
