"""What was not done, and why, as text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from rich.padding import Padding

from edgecompile.inspection_text import plain
from edgecompile.text_table import WIDTH, plain_console, table
from edgecompile.why_not import WhyNot


def why_not_text(
    rows: Sequence[WhyNot], time_shares: Mapping[WhyNot, float] | None = None, width: int = WIDTH
) -> str:
    """Return one row for each thing; the reasons, with what to change, stand below by their numbers.

    Args:
        rows: In the order to show them.
        time_shares: What was measured of them, 0 to 1; None where nothing was, and there is no column for it.
        width: In columns.
    """
    numbers: dict[tuple[str, str], int] = {}
    times = [] if time_shares is None else ["time"]
    filled = table("declined by", "what", "where", "cost", *times, "why")
    for row in rows:
        number = numbers.setdefault((row.reason, row.change), len(numbers) + 1)
        cells = [row.declined_by, row.what, row.where, row.cost]
        if time_shares is not None:
            cells.append(f"{time_shares[row]:.1%}" if row in time_shares else "-")
        filled.add_row(*map(plain, cells), f"({number})")
    file = io.StringIO()
    console = plain_console(file, width)
    console.print(filled)
    for (reason, change), number in numbers.items():
        console.print(plain(f"({number}) {reason}"))
        if change:
            console.print(Padding(plain(f"to change it: {change}"), (0, 0, 0, 4)))
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"
