"""The table of the float model beside each artifact, and the few numbers that stand above it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgecompile.pruning.pruning_report import Cost
from edgecompile.report_page import shown
from edgecompile.report_page.bundle_facts import BundleFacts
from edgecompile.report_page.shown_table import UNKNOWN, Cell, ShownTable, row

_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """A number that stands above all else."""

    name: str
    figure: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure.

    Attributes:
        given: Of the model as it was given, where it was changed before it was quantized.
        in_float: Of the float program that was quantized.
        cells: Of each artifact.
    """

    name: str
    given: Cell = UNKNOWN
    in_float: Cell = UNKNOWN
    cells: Sequence[Cell]


def before_after(facts: BundleFacts) -> ShownTable:
    """Return the float model and every artifact in all that is known of them."""
    changed = _changed(facts)
    heads = ["measure", *(["model as given"] if changed else []), changed or "float model"]
    measured = [
        found
        for item in measures(facts)
        for found in row(
            item.name, [*([item.given] if changed else []), *_either(item, changed), *item.cells]
        )
    ]
    beside = f"The artifacts' SQNR, errors and agreement are beside the {changed}. " if changed else ""
    return ShownTable(
        caption=f"{beside}Each artifact ran in its engine. Ratios are to the FP32 artifact of "
        "the same format that was measured in the same run.",
        heads=(*heads, *(f".{item.format}" for item in facts.artifacts)),
        rows=tuple(measured),
    )


def measures(facts: BundleFacts) -> Iterator[Measure]:
    """Yield all that is known of the artifacts, and of what they were made from."""
    report, items = facts.report, facts.artifacts
    qualities = [facts.quality(item) for item in items]
    before, after = costs(facts)
    weights, given = report.float_weight_bytes, None
    if report.pruning is not None:
        given = _FLOAT_BYTES * report.pruning.before.parameters
    yield Measure(
        name="size",
        given=Cell(text=shown.size(given), beside="4 bytes a parameter") if given else UNKNOWN,
        in_float=Cell(text=shown.size(weights), beside="its weights"),
        cells=[
            Cell(text=shown.size(item.size_bytes), beside=_share(item.size_bytes, given or weights))
            for item in items
        ],
    )
    for title, name in (("MACs per sample", "macs"), ("parameters", "parameters")):
        was, now = (getattr(cost, name, None) for cost in (before, after))
        # All are lowered from one program.
        cell = Cell(text=shown.count(now), beside="" if was == now else _share(now, was))
        yield Measure(
            name=title,
            given=Cell(text=shown.count(was)),
            in_float=Cell(text=shown.count(now)),
            cells=[cell for _ in items],
        )
    change = report.pruning or report.sparsity
    yield Measure(
        name="top-1",
        given=Cell(text=shown.percent(None if change is None else change.accuracy)),
        in_float=Cell(text=shown.percent(_get(facts.of_float, "accuracy"))),
        cells=[Cell(text=shown.percent(_get(quality, "accuracy"))) for quality in qualities],
    )
    close = [None if quality is None else quality.against_float for quality in qualities]
    last = change.recovery[-1] if change is not None and change.recovery else None
    yield Measure(
        name="SQNR",
        in_float=UNKNOWN if last is None else Cell(text=shown.decibels(last.sqnr_db), beside="to the model"),
        cells=[UNKNOWN if found is None else Cell(text=shown.decibels(found.sqnr_db)) for found in close],
    )
    yield Measure(
        name="top-1 as float",
        in_float=Cell(text=shown.percent(_get(last, "agreement")), beside="as the model" if last else ""),
        cells=[Cell(text=shown.percent(_get(found, "agreement"))) for found in close],
    )
    yield Measure(
        name="largest error",
        cells=[Cell(text=shown.number(_get(found, "max_abs_error"))) for found in close],
    )
    yield Measure(
        name="outputs equal to the reference",
        cells=[Cell(text=shown.percent(_get(quality, "identical"))) for quality in qualities],
    )
    for title, cells in _measured(facts):
        yield Measure(name=title, cells=cells)


def _measured(facts: BundleFacts) -> Iterator[tuple[str, list[Cell]]]:
    """Yield what was measured of the artifacts, on each connection."""
    for counts in facts.measured.counts:
        counted = [facts.counted(counts, item) for item in facts.artifacts]
        yield (
            f"instructions per inference, {counts.connection}",
            [
                UNKNOWN
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
                UNKNOWN
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
    first = facts.artifacts[0]
    quality, of_float = facts.quality(first), facts.of_float
    size = next(measures(facts)).cells[0]
    found = [KeyNumber(name=f"size of .{first.format}", figure=size.text, note=size.beside)]
    if quality is not None and quality.accuracy is not None and of_float is not None:
        note = f"the float model has {shown.percent(of_float.accuracy, 1)}"
        found.append(KeyNumber(name="top-1", figure=shown.percent(quality.accuracy, 1), note=note))
    if quality is not None and quality.against_float is not None:
        close = quality.against_float
        note = f"top-1 as float in {shown.percent(close.agreement, 1)}" if close.agreement is not None else ""
        name = f"SQNR to the {_changed(facts)}" if _changed(facts) else "SQNR to float"
        found.append(KeyNumber(name=name, figure=shown.decibels(close.sqnr_db), note=note))
    before, after = costs(facts)
    if after is not None:
        changed = before is not None and before.macs != after.macs
        note = _share(after.macs, before.macs) if before is not None and changed else "as the float model"
        found.append(KeyNumber(name="MACs per sample", figure=shown.count(after.macs), note=note))
    for counts in facts.measured.counts[:1]:
        own = facts.counted(counts, first)
        if own is not None:
            note = f"on {counts.connection}" + (f", {_to_fp32(own[1])}" if own[1] is not None else "")
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


def _changed(facts: BundleFacts) -> str:
    """Say what was quantized instead of the model as it was given; "" where that itself was."""
    if facts.report.pruning is not None:
        return "pruned model in float"
    return "" if facts.report.sparsity is None else "model with zeros in float"


def _either(item: Measure, changed: str) -> list[Cell]:
    """Return the float program's cell; where nothing changed it, it is the model itself."""
    return [item.in_float if changed or item.in_float.text != shown.NONE else item.given]


def _share(now: float | None, before: float | None) -> str:
    return f"{shown.percent(now / before, 1)} of float" if now is not None and before else ""


def _get(found: object | None, name: str) -> float | None:
    number: float | None = getattr(found, name, None)
    return number


def _to_fp32(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN} FP32"
