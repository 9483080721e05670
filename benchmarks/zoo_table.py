"""The table of docs/zoo.md, from the lines of zoo.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

FORMATS = ("pte", "ptl", "onnx")
_HEAD = ("network", "parameters", "INT8 layers", "delegate calls", "outside", *FORMATS, "seconds")

# Where definitions are from, by what names begin with; those of timm have timm's own names.
SOURCES = {
    "timm": "timm 1.0.31",
    "transformers": "transformers 5.24.0, in small configurations",
    "written": "Heads that find things, sounds, words and states, written for the zoo",
}

Line = dict[str, Any]
_NOT_KEPT = ("rewrites", "nodes", "operators", "missed", "log", "code")
_OF_THE_PROGRAM = ("float", "pairs")  # the same for every format


def summary(lines: Sequence[Line]) -> str:
    """Return the lines, sorted and without what no table shows."""
    rows = []
    for line in sorted(lines, key=lambda line: (line["model"], FORMATS.index(line["format"]))):
        dropped = _NOT_KEPT if line["format"] == FORMATS[0] else (*_NOT_KEPT, *_OF_THE_PROGRAM)
        rows.append(json.dumps({key: value for key, value in line.items() if key not in dropped}))
    return "\n".join(rows)


def table(lines: Sequence[Line]) -> str:
    """Return what is known of all networks as Markdown: totals, a row a network, and what is outside."""
    parts: list[str] = []
    for source, title in SOURCES.items():
        by_model: dict[str, dict[str, Line]] = {}
        for line in lines:
            if source_of(line["model"]) == source:
                by_model.setdefault(line["model"], {})[line["format"]] = line
        rows = [_row(name.removeprefix(f"{source}_"), found) for name, found in sorted(by_model.items())]
        if rows:
            parts += [f"## {title}", "", *_totals(by_model), "", *_markdown(_HEAD, rows), ""]
    parts += ["## Outside the delegate", "", *_outside(lines), "", "## What fails", "", *_failures(lines)]
    return "\n".join(parts)


def source_of(name: str) -> str:
    """Return where a network's definition is from: a key of `SOURCES`."""
    source = name.partition("_")[0]
    return source if source in SOURCES else "timm"


def passes(line: Line) -> bool:
    """Tell whether an artifact runs, its layers are right, and it is within 1 dB of the reference."""
    if line["status"] or line["layers_failed"]:
        return False
    found, reference = line["sqnr_db"], line["reference_sqnr_db"]
    return found is None or (reference is not None and found >= reference - 1)


def _totals(by_model: dict[str, dict[str, Line]]) -> list[str]:
    count = len(by_model)
    found = []
    for name in FORMATS:
        good = sum(passes(lines[name]) for lines in by_model.values() if name in lines)
        found.append(f"- `.{name}`: {good} of {count} build, run, and are right.")
    built = [lines["pte"] for lines in by_model.values() if "pte" in lines and not lines["pte"]["status"]]
    calls = Counter(line["delegate_calls"] for line in built)
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
    """Return an artifact's SQNR against float with its reference's in brackets, or what is wrong."""
    if line is None:
        return "-"
    if line["status"]:
        return f"exit {line['status']}"
    found, reference = (decibels(line[key]) for key in ("sqnr_db", "reference_sqnr_db"))
    failed = f", {len(line['layers_failed'])} layers differ" if line["layers_failed"] else ""
    return f"{found} ({reference}){failed}"


def decibels(sqnr_db: float | None) -> str:
    """Return an SQNR as the table shows it."""
    return "equal" if sqnr_db is None else f"{sqnr_db:.1f}"


def _outside(lines: Iterable[Line]) -> list[str]:
    """Return the operators outside the delegate, why they are, and in which networks."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line["format"] == "pte" and not line["status"]:
            for reason, count in line["outside"].items():
                found.setdefault(reason, []).append(f"{line['model']} ({count})")
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = [(*reason.split(": ", 1), ", ".join(sorted(names))) for reason, names in ordered]
    return _markdown(("operator outside the delegate", "why", "networks"), rows) if rows else []


def _failures(lines: Iterable[Line]) -> list[str]:
    failed = sorted(
        (line for line in lines if line["status"]), key=lambda line: (line["model"], line["format"])
    )
    rows = [(line["model"], line["format"], str(line["status"]), line["error"]) for line in failed]
    return _markdown(("network", "format", "exit status", "error"), rows) if rows else []


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
