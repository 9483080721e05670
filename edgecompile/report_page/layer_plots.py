"""Figures with one place for each layer, in the order of the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.decibels import sqnr_text
from edgecompile.layer_quality import LOW_SQNR_DB, LayerQuality, LayerReport
from edgecompile.report_page import shown
from edgecompile.report_page.svg_figure import (
    BAD,
    BAND,
    FIRST,
    INK,
    MUTED,
    SECOND,
    SOFT,
    Canvas,
    PageFigure,
    page_figure,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEAST_INT8, _GREATEST_INT8 = -128, 127


def sqnr_figure(report: LayerReport) -> PageFigure:
    """Return each layer's SQNR, of its own and end to end."""
    rows = report.rows

    def draw(figure: Figure, canvas: Canvas) -> None:
        axes = figure.subplots()
        places = range(1, len(rows) + 1)
        low, high = _limits([*(row.sqnr_db for row in rows), *(row.own_sqnr_db for row in rows)])
        axes.set_ylim(low, high)
        axes.axhspan(low, max(LOW_SQNR_DB, low), color=SOFT, linewidth=0, zorder=0)
        axes.axhline(LOW_SQNR_DB, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.text(0.995, LOW_SQNR_DB, f"{LOW_SQNR_DB:g} dB", transform=axes.get_yaxis_transform(),
                  color=MUTED, fontsize=9, ha="right", va="bottom")  # fmt: skip
        width = 1.6 if len(rows) < 150 else 1
        axes.plot(places, _values([row.sqnr_db for row in rows]), color=SECOND, linewidth=width,
                  label="end to end", zorder=3)  # fmt: skip
        dot = 4.5 if len(rows) < 100 and not canvas.is_narrow else 2.5
        axes.plot(places, _values([row.own_sqnr_db for row in rows]), color=FIRST, linestyle="none",
                  marker="o", markersize=dot, label="the layer alone", zorder=4)  # fmt: skip
        fall = _place(rows, report.first_fall)
        if fall is not None:
            axes.axvline(fall, color=BAD, linewidth=1, zorder=2)
            axes.annotate(
                f"quality falls first: {shortened(rows[fall - 1].name, 24)}",
                (fall, 1), xycoords=("data", "axes fraction"), xytext=(-4 if fall > len(rows) / 2 else 4, -2),
                textcoords="offset points", ha="right" if fall > len(rows) / 2 else "left", va="top",
                color=BAD, fontsize=9.5,
            )  # fmt: skip
        _tips(axes, canvas, rows, lambda row: (
            row.reason if row.reason is not None
            else f"alone {sqnr_text(row.own_sqnr_db)} dB, end to end {sqnr_text(row.sqnr_db)} dB"
        ))  # fmt: skip
        _layer_axis(axes, len(rows))
        axes.set_ylabel("SQNR in dB")
        axes.grid(axis="y")
        _legend(axes)

    measured = [row.sqnr_db for row in rows if row.reason is None and row.sqnr_db is not None]
    lowest = min(measured, default=None)
    said = f"{len(rows)} layers in the order of the graph. " + (
        "No layer has an error." if lowest is None else f"The lowest end to end is {lowest:.1f} dB. "
    )
    said += "The table below has every number."
    return page_figure("figure-sqnr", "SQNR of each layer", said, lambda _: 300, draw)


def range_figure(report: LayerReport) -> PageFigure:
    """Return the range that each layer's output was given, the one that it used, and what was clipped."""
    rows = report.rows

    def draw(figure: Figure, canvas: Canvas) -> None:
        axes, clipped = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        places = range(1, len(rows) + 1)
        given = [_given(row) for row in rows]
        seen = [_seen(row) for row in rows]
        width = canvas.width / (len(rows) + 8)
        axes.set_yscale("asinh", linear_width=_middle([max(map(abs, pair), default=0) for pair in given]))
        for pairs, colour, share, label in (
            (given, BAND, 0.7, "quantized range"),
            (seen, FIRST, 0.35, "seen in the samples"),
        ):
            inside = [(place, pair) for place, pair in zip(places, pairs, strict=True) if pair]
            axes.vlines(
                [place for place, _ in inside],
                [pair[0] for _, pair in inside],
                [pair[1] for _, pair in inside],
                color=colour,
                linewidth=max(share * width, 0.6),
                label=label,
            )
        axes.axhline(0, color=MUTED, linewidth=0.6)
        axes.set_yticks(*_powers(axes))
        axes.set_ylabel("output")
        axes.grid(axis="y")
        _legend(axes)
        shares = [100 * (row.clipped_share or 0) for row in rows]
        clipped.bar(places, shares, color=BAD, width=0.7, linewidth=0)
        clipped.set_ylabel("clipped, %")
        clipped.set_ylim(0, max(*shares, 0.01) * 1.15)
        clipped.grid(axis="y")
        clipped.locator_params(axis="y", nbins=3)
        _tips(axes, canvas, rows, _range_text)
        _layer_axis(clipped, len(rows))
        figure.align_ylabels()

    worst = max(rows, key=lambda row: row.clipped_share or 0)
    said = (
        f"{len(rows)} layers in the order of the graph. Most is clipped in {worst.name}: "
        f"{shown.percent(worst.clipped_share or 0)} of its values."
    )
    return page_figure(
        "figure-ranges", "Activation ranges and clipping of each layer", said, lambda _: 380, draw
    )


def _powers(axes: Axes) -> tuple[list[float], list[str]]:
    """Return powers of ten on both sides of zero that stand well apart on the scale, as ticks."""
    low, high = axes.get_ylim()
    scale = axes.yaxis.get_transform()

    def place(value: float) -> float:
        return float(scale.transform(np.array([value]))[0])

    tall = place(high) - place(low)
    found = [0.0]
    for exponent in range(-6, 9):
        power = 10.0**exponent
        if power < max(high, -low) and place(power) - place(found[-1]) > 0.1 * tall:
            found.append(power)
    ticks = sorted({sign * power for power in found for sign in (1, -1)})
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks, [f"{tick:g}".replace("-", "\N{MINUS SIGN}") for tick in ticks]


def _range_text(row: LayerQuality) -> str:
    given, seen = _given(row), _seen(row)
    if row.reason is not None or not given:
        return row.reason or "no range"
    text = f"quantized {given[0]:.4g} to {given[1]:.4g}"
    if seen:
        text += f", seen {seen[0]:.4g} to {seen[1]:.4g}"
    return f"{text}, clipped {shown.percent(row.clipped_share)}"


def _given(row: LayerQuality) -> tuple[float, ...]:
    if row.scale is None or row.zero_point is None:
        return ()
    return tuple((step - row.zero_point) * row.scale for step in (_LEAST_INT8, _GREATEST_INT8))


def _seen(row: LayerQuality) -> tuple[float, ...]:
    return () if row.minimum is None or row.maximum is None else (row.minimum, row.maximum)


def _values(numbers: Sequence[float | None]) -> list[float]:
    """Return what is drawn: nothing where there is no error, and where nothing was measured."""
    return [math.nan if number is None else number for number in numbers]


def _limits(numbers: Sequence[float | None]) -> tuple[float, float]:
    known = [number for number in numbers if number is not None]
    low, high = min([*known, LOW_SQNR_DB]), max([*known, LOW_SQNR_DB])
    return low - 3, high + 0.12 * (high - low) + 2


def _middle(numbers: Sequence[float]) -> float:
    known = sorted(number for number in numbers if number > 0)
    return known[len(known) // 2] if known else 1.0


def _place(rows: Sequence[LayerQuality], name: str | None) -> int | None:
    return next((place for place, row in enumerate(rows, 1) if row.name == name), None)


def _tips(axes: Axes, canvas: Canvas, rows: Sequence[LayerQuality], text: Any) -> None:
    """Lay an unseen bar over each layer, which says its numbers under the pointer."""
    if canvas.is_narrow:
        return  # a finger points at nothing
    low, high = axes.get_ylim()
    for place, row in enumerate(rows, 1):
        bar = axes.axvspan(place - 0.5, place + 0.5, color=INK, alpha=0, linewidth=0, zorder=9)
        bar.set_gid(canvas.tip(f"{place}  {row.name}  {row.where}\n{text(row)}"))
    axes.set_ylim(low, high)


def _layer_axis(axes: Axes, number: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.3, number + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("layer, in the order of the graph")


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3)
