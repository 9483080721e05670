"""Figures with one bar a row: sizes, times, noise, channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.decibels import relative_noise, sqnr_text
from edgecompile.layer_costs import CostReport
from edgecompile.operator_times import OperatorTime
from edgecompile.pruning.pruning_report import PruningReport
from edgecompile.report_page import shown
from edgecompile.report_page.svg_figure import (
    BAND,
    FIRST,
    INK,
    MUTED,
    SECOND,
    Canvas,
    PageFigure,
    page_figure,
    shortened,
)
from edgecompile.sensitivity import SensitivityReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BARS = 20
_BAR, _MARGIN = 19, 62  # CSS pixels


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row.

    Attributes:
        parts: Lengths of what stands side by side, as many as a figure has parts.
        value: What stands at its end.
        tip: What the pointer shows.
    """

    label: str
    parts: tuple[float, ...]
    value: str
    tip: str = ""


def size_figure(costs: CostReport) -> PageFigure | None:
    """Return which layers the weights' bytes are in."""
    rows = [row for row in costs.rows if row.weight_bytes]
    rows.sort(key=lambda row: -row.weight_bytes)

    def bar(index: int) -> Bar:
        row = rows[index]
        share = row.weight_bytes / costs.weight_bytes
        value = f"{shown.size(row.weight_bytes)}  {share:.1%}"
        tip = (
            f"{row.name}  {row.where}\n{shown.count(row.macs)} MACs, {shown.count(row.parameters)} parameters"
        )
        return Bar(label=row.name, parts=(row.weight_bytes,), value=value, tip=tip)

    if not rows:
        return None
    bars = [bar(index) for index in range(min(len(rows), _MOST_BARS))]
    rest = [row.weight_bytes for row in rows[_MOST_BARS:]]
    if rest:
        value = f"{shown.size(sum(rest))}  {sum(rest) / costs.weight_bytes:.1%}"
        bars.append(Bar(label=f"{len(rest)} others", parts=(sum(rest),), value=value))
    largest, whole = shown.size(rows[0].weight_bytes), shown.size(costs.weight_bytes)
    said = f"{rows[0].name} is the largest: {largest} of {whole}."
    return _bars("figure-size", "Weights by layer", said, bars, (("bytes", FIRST),))


def time_figure(name: str, label: str, kinds: Sequence[OperatorTime]) -> PageFigure | None:
    """Return which kinds of operators an artifact's time goes to."""
    if not kinds:
        return None

    def bar(row: OperatorTime) -> Bar:
        value = f"{shown.milliseconds(row.milliseconds)}  {row.share:.1%}"
        return Bar(
            label=row.name, parts=(row.milliseconds,), value=value, tip=f"{row.name}\n{row.calls} calls"
        )

    most = 12
    bars = [bar(row) for row in kinds[:most]]
    rest = kinds[most:]
    if rest:
        spent = sum(row.milliseconds for row in rest)
        value = f"{shown.milliseconds(spent)}  {sum(row.share for row in rest):.1%}"
        bars.append(Bar(label=f"{len(rest)} others", parts=(spent,), value=value))
    said = f"{kinds[0].name} takes most: {kinds[0].share:.1%} of an inference."
    return _bars(name, f"Time by operator in {label}", said, bars, (("milliseconds", FIRST),))


def sensitivity_figure(report: SensitivityReport) -> PageFigure | None:
    """Return how much noise each layer's rounding alone brings to the outputs, the most first."""

    def noises(index: int) -> tuple[float, float]:
        row = report.rows[index]
        whole = relative_noise(row.alone_sqnr_db)
        weights = min(relative_noise(row.weights_sqnr_db), whole) if row.has_weights else 0.0
        return weights, whole - weights

    order = sorted(range(len(report.rows)), key=lambda index: -sum(noises(index)))[:_MOST_BARS]
    if not order:
        return None
    bars = [
        Bar(
            label=report.rows[index].name,
            parts=noises(index),
            value=f"{sqnr_text(report.rows[index].alone_sqnr_db)} dB",
            tip=f"{report.rows[index].name}  {report.rows[index].where}\n"
            f"alone {sqnr_text(report.rows[index].alone_sqnr_db)} dB, "
            f"all but it {sqnr_text(report.rows[index].without_sqnr_db)} dB",
        )
        for index in order
    ]
    said = (
        f"The {len(bars)} of {len(report.rows)} parts whose rounding matters most, first {bars[0].label}: "
        f"with nothing else rounded the outputs have {bars[0].value}."
    )
    parts = (("by its weights", FIRST), ("by its values", SECOND))
    return _bars("figure-sensitivity", "Noise at the outputs by rounding one layer alone", said, bars, parts)


def pruning_figure(report: PruningReport) -> PageFigure | None:
    """Return how many channels of each group are gone, the widest groups first."""
    rows = sorted(report.groups, key=lambda row: -row.units)
    if not rows:
        return None
    bars = [
        Bar(
            label=row.name,
            parts=(row.left, row.units - row.left),
            value=f"{row.left} of {row.units}",
            tip=f"{', '.join(row.layers[:4])}  {row.where}\n{row.removable} could go",
        )
        for row in rows[: _MOST_BARS + 10]
    ]
    gone = sum(row.units - row.left for row in rows)
    said = f"{gone} of {sum(row.units for row in rows)} channels in {len(rows)} groups were removed."
    if len(rows) > len(bars):
        said += f" The {len(bars)} widest groups are shown; the table has all."
    parts = (("left", FIRST), ("removed", BAND))
    return _bars("figure-pruning", "Channels by group", said, bars, parts)


def _bars(
    name: str, title: str, said: str, bars: Sequence[Bar], parts: Sequence[tuple[str, str]]
) -> PageFigure:
    longest = max((sum(bar.parts) for bar in bars), default=0) or 1

    def draw(figure: Figure, canvas: Canvas) -> None:
        axes = figure.subplots()
        left = [0.0] * len(bars)
        for number, (label, colour) in enumerate(parts):
            lengths = [bar.parts[number] for bar in bars]
            axes.barh(
                range(len(bars)), lengths, left=left, color=colour, height=0.62, linewidth=0, label=label
            )
            left = [begin + length for begin, length in zip(left, lengths, strict=True)]
        for place, bar in enumerate(bars):
            axes.annotate(bar.value, (left[place], place), xytext=(5, 0), textcoords="offset points",
                          va="center", fontsize=9.5 if canvas.is_narrow else 10, color=MUTED)  # fmt: skip
            if bar.tip and not canvas.is_narrow:
                over = axes.axhspan(place - 0.5, place + 0.5, color=INK, alpha=0, linewidth=0, zorder=9)
                over.set_gid(canvas.tip(bar.tip))
        axes.set_ylim(len(bars) - 0.4, -0.6)
        # The longest value stands at its bar's end, in the figure.
        axes.set_xlim(0, longest * (1.45 if canvas.is_narrow else 1.18))
        axes.set_yticks(
            range(len(bars)), [shortened(bar.label, 15 if canvas.is_narrow else 44) for bar in bars]
        )
        axes.tick_params(axis="y", length=0, labelcolor=INK, labelsize=9.5 if canvas.is_narrow else 10.5)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        if len(parts) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)

    height: Callable[[Canvas], int] = lambda _: _BAR * len(bars) + (_MARGIN if len(parts) > 1 else 24)  # noqa: E731
    return page_figure(name, title, said, height, draw)
