"""Numbers as the page shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecompile.decibels import sqnr_text
from edgecompile.setting import show_value

NONE = "\N{EN DASH}"
_SPACE = "\N{NO-BREAK SPACE}"


def size(size_bytes: float | None) -> str:
    """Return bytes in units of 1000."""
    if size_bytes is None:
        return NONE
    if abs(size_bytes) >= 1e6:
        return f"{size_bytes / 1e6:.2f}{_SPACE}MB"
    return f"{size_bytes / 1e3:.2f}{_SPACE}KB" if abs(size_bytes) >= 1e3 else f"{size_bytes:.0f}{_SPACE}B"


def count(number: float | None) -> str:
    """Return a large count with three or four digits: 300.8 M."""
    if number is None:
        return NONE
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.4g}{_SPACE}{name}"
    return f"{number:.0f}"


def percent(share: float | None, digits: int = 2) -> str:
    """Return a share, 0 to 1; what is more than nothing never shows as 0."""
    if share is None:
        return NONE
    least = 10**-digits
    if 0 < 100 * share < least / 2:
        return f"<{least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def decibels(sqnr_db: float | None) -> str:
    """Return an SQNR; None is no error."""
    return "exact" if sqnr_db is None else f"{sqnr_db:.2f}{_SPACE}dB"


def milliseconds(number: float | None) -> str:
    """Return a time with about three digits."""
    return (
        NONE if number is None else f"{number:#.3g}{_SPACE}ms" if number < 100 else f"{number:.0f}{_SPACE}ms"
    )


def number(value: float | None) -> str:
    """Return a number with four digits."""
    return NONE if value is None else f"{value:.4g}"


FILTERS: dict[str, Callable[..., Any]] = {
    "size": size,
    "si": count,
    "percent": percent,
    "decibels": decibels,
    "milliseconds": milliseconds,
    "number": number,
    "sqnr": sqnr_text,
    "setting": show_value,
}
