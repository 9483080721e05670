"""Figures of what was weighed against what: programs that a budget tried, and bundles side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompile.budget import MixedPrecision, Trial
from edgecompile.layer_quality import LayerReport
from edgecompile.report_page.svg_figure import (
    BAD,
    FIRST,
    MUTED,
    SECOND,
    THIRD,
    Canvas,
    PageFigure,
    page_figure,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP*X"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One artifact of a bundle, where several are compared.

    Attributes:
        series: The bundle's letter.
        sqnr_db: None for no error.
    """

    series: str
    format: str
    size_bytes: int
    sqnr_db: float | None


def trial_figure(found: MixedPrecision) -> PageFigure | None:
    """Return the programs that a search measured: what they keep in float, and what that brings."""
    trials = [trial for trial in found.trials if trial.sqnr_db is not None]
    if not trials:
        return None
    with_accuracy = any(trial.accuracy_drop is not None for trial in trials)

    def draw(figure: Figure, canvas: Canvas) -> None:
        if with_accuracy and not canvas.is_narrow:
            several = figure.subplots(1, 2)
        else:
            several = [*figure.subplots(2, 1)] if with_accuracy else [figure.subplots()]
        chosen = {layer.name for layer in found.layers}
        for axes, name in zip(several, ("sqnr_db", "accuracy_drop"), strict=False):
            _trials(axes, canvas, trials, name, chosen)
        several[0].legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)

    held = sum(trial.holds for trial in trials)
    said = (
        f"{len(trials)} programs were measured, of which {held} hold {found.budget}. "
        f"The one that was taken keeps {len(found.layers)} of {found.quantizable} layers in float."
    )

    def height(canvas: Canvas) -> int:
        return 520 if canvas.is_narrow and with_accuracy else 300

    return page_figure("figure-pareto", "Layers in float against quality", said, height, draw)


def _trials(axes: Axes, canvas: Canvas, trials: Sequence[Trial], name: str, chosen: set[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    best = max if name == "sqnr_db" else min
    known = [trial for trial in trials if getattr(trial, name) is not None]
    frontier: dict[int, float] = {}
    reached: float | None = None
    for trial in sorted(known, key=lambda trial: len(trial.layers)):
        value = getattr(trial, name)
        reached = value if reached is None else best(reached, value)
        frontier[len(trial.layers)] = reached
    axes.plot([*frontier], [*frontier.values()], color=MUTED, linewidth=1, drawstyle="steps-post", zorder=1)
    for holds, colour, marker, label in (
        (True, FIRST, "o", "holds the budget"),
        (False, BAD, "x", "does not"),
    ):
        rows = [trial for trial in known if trial.holds == holds]
        places = [len(trial.layers) for trial in rows]
        values = [getattr(trial, name) for trial in rows]
        axes.plot(places, values, marker, color=colour, markersize=6, label=label, zorder=3)
    taken = next((trial for trial in known if trial.holds and set(trial.layers) == chosen), None)
    if taken is not None:
        place = (len(taken.layers), getattr(taken, name))
        axes.plot(*place, marker="o", markersize=13, markerfacecolor="none", color=FIRST, zorder=2)
        axes.annotate("taken", place, xytext=(10, -10), textcoords="offset points", color=FIRST, va="top")
    for trial in () if canvas.is_narrow else known:
        point = axes.plot(
            len(trial.layers), getattr(trial, name), marker="o", markersize=14, alpha=0, color=FIRST
        )
        text = ", ".join(shortened(layer, 30) for layer in trial.layers[:6]) or "none"
        more = len(trial.layers) - 6
        point[0].set_gid(
            canvas.tip(f"{trial.text()}\nin float: {text}" + (f" and {more} more" if more > 0 else ""))
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("layers in float")
    axes.set_ylabel("SQNR in dB" if name == "sqnr_db" else "points of top-1 lost")
    axes.margins(0.08, 0.12)
    axes.grid()


def compared_figure(placed: Sequence[Placed]) -> PageFigure | None:
    """Return the artifacts of several bundles by size and quality."""
    rows = [row for row in placed if row.sqnr_db is not None]
    if not rows:
        return None
    series = list(dict.fromkeys(row.series for row in rows))
    formats = list(dict.fromkeys(row.format for row in rows))

    def draw(figure: Figure, canvas: Canvas) -> None:
        axes = figure.subplots()
        for row in rows:
            marker, colour = _MARKERS[formats.index(row.format) % len(_MARKERS)], _colour(series, row)
            size, quality = row.size_bytes / 1e6, row.sqnr_db or 0.0
            (point,) = axes.plot(size, quality, marker, color=colour, markersize=8)
            if not canvas.is_narrow:
                point.set_gid(canvas.tip(f"{row.series} .{row.format}: {size:.2f} MB, {quality:.2f} dB"))
        for name in series:
            first = next(row for row in rows if row.series == name)
            axes.plot([], [], "s", color=_colour(series, first), markersize=9, label=name)
        for number, name in enumerate(formats):
            axes.plot([], [], _MARKERS[number % len(_MARKERS)], color=MUTED, markersize=8, label=f".{name}")
        axes.set_xlabel("size in MB")
        axes.set_ylabel("SQNR in dB")
        axes.margins(0.1, 0.15)
        axes.grid()
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=4 if canvas.is_narrow else 12)

    smallest = min(rows, key=lambda row: row.size_bytes)
    said = f"{len(rows)} artifacts of {len(series)} bundles; "
    said += f"the smallest is the .{smallest.format} of {smallest.series}."
    return page_figure("figure-compared", "Size against SQNR", said, lambda _: 320, draw)


def _colour(series: Sequence[str], row: Placed) -> str:
    return (FIRST, SECOND, THIRD, BAD)[series.index(row.series) % 4]


def compared_layers_figure(reports: Sequence[tuple[str, LayerReport]]) -> PageFigure | None:
    """Return the SQNR end to end of the layers that all bundles have, one line a bundle.

    Bundles of which no layer was measured, as those in FP32, are left out.
    """
    reports = [(series, report) for series, report in reports if report.rows]
    if len(reports) < 2:
        return None
    known = [{row.name for row in report.rows if row.sqnr_db is not None} for _, report in reports]
    names = [row.name for row in reports[0][1].rows if all(row.name in own for own in known)]
    if len(names) < 2:
        return None

    def draw(figure: Figure, canvas: Canvas) -> None:
        axes = figure.subplots()
        for number, (series, report) in enumerate(reports):
            found = {row.name: row.sqnr_db or 0.0 for row in report.rows}
            axes.plot(range(1, len(names) + 1), [found[name] for name in names], linewidth=1.6, label=series,
                      color=(FIRST, SECOND, THIRD, BAD)[number % 4],
                      linestyle=("-", "--", ":", "-.")[number // 4 % 4])  # fmt: skip
        axes.set_xlabel("layer, in the order of the graph")
        axes.set_ylabel("SQNR in dB")
        axes.margins(x=0.01)
        axes.grid(axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=8)

    said = f"{len(names)} layers that {len(reports)} bundles have."
    return page_figure("figure-sqnr", "SQNR of each layer, end to end", said, lambda _: 300, draw)
