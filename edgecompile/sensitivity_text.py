"""What the rounding of each layer costs, as text for reports and terminals."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgecompile.decibels import relative_noise, sqnr_text
from edgecompile.inspection_text import plain
from edgecompile.sensitivity import PartSensitivity, SensitivityReport
from edgecompile.text_table import WIDTH, plain_console

_BAR = 12  # columns
_EIGHTHS = " ▏▎▍▌▋▊▉"


def sensitivity_text(report: SensitivityReport, width: int = WIDTH) -> str:
    """Return one row for each part, and a bar for its share of the noise that all bring alone.

    Args:
        report: The parts.
        width: Of the terminal, in columns.
    """
    file = io.StringIO()
    console = plain_console(file, width)
    head = f"sensitivity, on {report.samples} samples: SQNR of the outputs in dB"
    console.print(plain(f"{head}, all rounded {sqnr_text(report.sqnr_db)}"))
    if report.accuracy is not None and report.float_accuracy is not None:
        top1 = f"top-1 all rounded {report.accuracy:.2%}, in float {report.float_accuracy:.2%}"
        console.print(plain(top1))
    console.print(_table(report))
    console.print("alone: nothing else is rounded; weights: nothing but its weights")
    console.print("without: all is rounded but it; the bar: its share of the noise of all alone")
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _table(report: SensitivityReport) -> Table:
    with_accuracy = report.accuracy is not None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    titles = ("alone", "weights", "without", *(("top-1 alone", "without") if with_accuracy else ()))
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    noise = [relative_noise(row.alone_sqnr_db) for row in report.rows]
    largest = max(noise, default=0.0)
    for row, own in zip(report.rows, noise, strict=True):
        cells = [sqnr_text(row.alone_sqnr_db), _weights(row), sqnr_text(row.without_sqnr_db)]
        if with_accuracy:
            cells += [_percent(row.alone_accuracy), _percent(row.without_accuracy)]
        share = own / sum(noise) if largest else 0.0
        bar = f"{_bar(own / largest if largest else 0.0)} {share:.1%}"
        table.add_row(plain(f"{row.name} {row.where}".rstrip()), *map(plain, (*cells, bar)))
    return table


def _weights(row: PartSensitivity) -> str:
    return sqnr_text(row.weights_sqnr_db) if row.has_weights else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _bar(share: float) -> str:
    """Return a bar of a share, 0 to 1, of its full length."""
    whole, eighths = divmod(round(share * _BAR * 8), 8)
    return ("█" * whole + _EIGHTHS[eighths].strip()).ljust(_BAR)
