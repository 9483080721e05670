"""The layers of a quantized program as text for a terminal."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgecompile.decibels import sqnr_text
from edgecompile.inspection_text import plain
from edgecompile.layer_quality import LayerQuality, LayerReport
from edgecompile.text_table import plain_console

_NUMBERS = ("SQNR", "own", "min", "max", "clipped", "zero", "scale")
_MARK = ">"


def layer_text(report: LayerReport, width: int) -> str:
    """Return one row for each layer; the first where quality falls has a mark before it.

    Args:
        report: The layers.
        width: Of the terminal; from 80 columns on no number is cut.
    """
    file = io.StringIO()
    console = plain_console(file, width)
    console.print(plain(f"layers, beside float on {report.samples} samples (SQNR in dB)"))
    reasons = list(dict.fromkeys(row.reason for row in report.rows if row.reason is not None))
    if report.rows:
        console.print(_table(report, reasons))
    console.print(plain(report.fall_text()))
    if reasons:
        console.print("\nnot compared, and why")
    for number, reason in enumerate(reasons, 1):
        console.print(plain(f"({number}) {reason}"))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _table(report: LayerReport, reasons: list[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("layer", overflow="fold")
    for title in _NUMBERS:
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.rows:
        mark = _MARK if row.name == report.first_fall else ""
        numbers = _numbers(row) if row.reason is None else (f"({reasons.index(row.reason) + 1})",)
        table.add_row(mark, plain(_label(row)), *map(plain, numbers))
    return table


def _label(row: LayerQuality) -> str:
    kind = [] if row.name.startswith(row.kind) else [f"({row.kind})"]  # most are named after it
    return " ".join([row.name, *kind, row.where])


def _numbers(row: LayerQuality) -> tuple[str, ...]:
    return (
        sqnr_text(row.sqnr_db),
        sqnr_text(row.own_sqnr_db),
        "-" if row.minimum is None else f"{row.minimum:.3g}",
        "-" if row.maximum is None else f"{row.maximum:.3g}",
        "-" if row.clipped_share is None else _share(row.clipped_share),
        "-" if row.zero_point is None else str(row.zero_point),
        "-" if row.scale is None else f"{row.scale:.3g}",
    )


def _share(share: float) -> str:
    return "0" if share == 0 else "<0.01%" if share < 1e-4 else f"{share:.2%}"
