"""The table of docs/zoo.md, from the lines of zoo.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

FORMATS = ("pte", "ptl", "onnx")
_HEAD = ("network", "parameters", "INT8 layers", "delegate calls", "outside", *FORMATS, "seconds")

Line = dict[str, Any]


def table(lines: Sequence[Line]) -> str:
    """Return what is known of all networks as Markdown: totals, a row a network, and what is outside."""
    by_model: dict[str, dict[str, Line]] = {}
    for line in lines:
        by_model.setdefault(line["model"], {})[line["format"]] = line
    rows = [_row(name, found) for name, found in sorted(by_model.items())]
    return "\n".join(
        [*_totals(by_model), "", *_markdown(_HEAD, rows), "", *_outside(lines), "", *_failures(lines)]
    )


def _totals(by_model: dict[str, dict[str, Line]]) -> list[str]:
    count = len(by_model)
    found = []
    for name in FORMATS:
        built = [lines[name] for lines in by_model.values() if name in lines and not lines[name]["status"]]
        good = sum(not line["missed"] and not line["layers_failed"] for line in built)
        found.append(f"- `.{name}`: {len(built)} of {count} build and run, {good} pass every check.")
    calls = Counter(
        lines["pte"]["delegate_calls"]
        for lines in by_model.values()
        if not lines.get("pte", {"status": 1})["status"]
    )
    found.append(f"- One delegate call: {calls[1]} of {calls.total()} `.pte`.")
    return found


def _row(name: str, lines: dict[str, Line]) -> tuple[str, ...]:
    built = next((line for line in lines.values() if not line["status"]), None)
    pte = lines.get("pte")
    is_built = pte is not None and not pte["status"]
    return (
        name,
        f"{built['parameters'] / 1e6:.1f} M" if built else "-",
        str(built["quantized"]) if built else "-",
        str(pte["delegate_calls"]) if pte and is_built else "-",
        str(sum(pte["outside"].values())) if pte and is_built else "-",
        *(_cell(lines.get(item)) for item in FORMATS),
        f"{max(line['seconds'] for line in lines.values()):.0f}",
    )


def _cell(line: Line | None) -> str:
    """Return an artifact's SQNR against float with its reference's in brackets, or what went wrong."""
    if line is None:
        return "-"
    if line["status"]:
        return f"exit {line['status']}"
    found, reference = (decibels(line[key]) for key in ("sqnr_db", "reference_sqnr_db"))
    failed = f", {len(line['layers_failed'])} layers differ" if line["layers_failed"] else ""
    return f"{found} ({reference}){', missed' if line['missed'] else ''}{failed}"


def decibels(sqnr_db: float | None) -> str:
    """Return an SQNR as the table shows it."""
    return "equal" if sqnr_db is None else f"{sqnr_db:.1f}"


def _outside(lines: Iterable[Line]) -> list[str]:
    """Return the operators outside the delegate, why they are, and how many networks have them."""
    found: Counter[str] = Counter()
    for line in lines:
        if line["format"] == "pte" and not line["status"]:
            found.update(line["outside"].keys())
    rows = [(*reason.split(": ", 1), str(count)) for reason, count in found.most_common()]
    return _markdown(("operator outside the delegate", "why", "networks"), rows) if rows else []


def _failures(lines: Iterable[Line]) -> list[str]:
    failed = [line for line in lines if line["status"]]
    rows = [(line["model"], line["format"], str(line["status"]), line["error"]) for line in failed]
    return _markdown(("network", "format", "exit status", "error"), rows) if rows else []


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
