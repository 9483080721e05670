"""What a check found, for a terminal, a pull request's comment (Markdown) and a CI system (JUnit XML)."""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree

from rich.text import Text

from edgecompile.printable import printable, printable_lines
from edgecompile.regression.check import Check
from edgecompile.regression.gates import GateRow
from edgecompile.text_table import render, table

_COLUMNS = ("gate", "of", "baseline", "now", "allowed", "")


def check_text(check: Check, *, everything: bool = False) -> str:
    """Return what a terminal shows.

    Args:
        check: What was found.
        everything: Show the gates that hold row by row, too.
    """
    rows = list(check.rows) if everything else [row for row in check.rows if row.verdict != "passed"]
    parts = [f"{check.bundle} beside {check.baseline}\n"]
    if rows:
        shown = table(*_COLUMNS)
        for row in rows:
            shown.add_row(*map(Text, (row.gate, row.of, *_numbers(row), row.allowed, _verdict(row))))
        parts.append(render(shown))
    parts += [f"  {line}" for line in _said(check)]
    return printable_lines("\n".join([*parts, _summary(check)]))


def check_markdown(check: Check) -> str:
    """Return a pull request's comment: the verdict, what does not hold, and the rest folded."""
    verdict = "passed" if check.passed else "FAILED"
    head = f"### edgecompile: {verdict}\n\n{_escaped(check.bundle)}: {_summary(check)}\n"
    parts = [head, *(f"- {_escaped(line)}" for line in _said(check))]
    if check.failures:
        parts.append("\n" + _markdown_table(check.failures))
    parts.append(f"\n<details><summary>all gates</summary>\n\n{_markdown_table(check.rows)}\n\n</details>")
    return "\n".join(parts) + "\n"


def check_junit(check: Check) -> str:
    """Return one test case a gate, as CI systems read them."""
    suite = ElementTree.Element(
        "testsuite",
        name="edgecompile check",
        tests=str(len({row.gate for row in check.rows}) + len(check.skipped)),
        failures=str(len({row.gate for row in check.failures})),
        skipped=str(len(check.skipped)),
    )
    for gate, rows in groupby(check.rows, key=lambda row: row.gate):
        case = ElementTree.SubElement(suite, "testcase", classname=check.bundle, name=gate)
        bad = [row for row in rows if row.failed]
        if bad:
            failure = ElementTree.SubElement(case, "failure", message=_line(bad[0]))
            failure.text = "\n".join([*map(_line, bad), *_said(check)])
    for gate in check.skipped:
        case = ElementTree.SubElement(suite, "testcase", classname=check.bundle, name=gate)
        ElementTree.SubElement(case, "skipped", message="left out")
    for element in suite.iter():
        element.attrib = {name: printable(value) for name, value in element.attrib.items()}
        element.text = element.text and printable_lines(element.text)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _line(row: GateRow) -> str:
    before, now = _numbers(row)
    return f"{row.gate} of {row.of}: {now}, {before} in the baseline, {row.allowed} allowed; {_verdict(row)}"


def _said(check: Check) -> list[str]:
    lines = list(check.notes)
    if check.first_divergence is not None:
        lines.insert(0, f"the first layer that is not as it was: {check.first_divergence}")
    if check.skipped:
        lines.append(f"left out: {', '.join(check.skipped)}")
    return lines


def _summary(check: Check) -> str:
    gates = len({row.gate for row in check.rows})
    bad = dict.fromkeys(row.gate for row in check.failures)
    return (
        f"passed: {gates} gates"
        if check.passed
        else f"FAILED: {', '.join(bad)} ({len(bad)} of {gates} gates)"
    )


def _verdict(row: GateRow) -> str:
    return f"{row.verdict}: {row.detail}" if row.detail else row.verdict


def _numbers(row: GateRow) -> tuple[str, str]:
    return _number(row.baseline, row.unit), _change(row)


def _change(row: GateRow) -> str:
    text = _number(row.now, row.unit)
    if not row.baseline or row.now is None or row.unit not in ("bytes", "instructions"):
        return text
    return f"{text} ({row.now / row.baseline - 1:+.2%})"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.2f} KB"
    if unit == "instructions":
        return f"{value / 1e6:.2f} M"
    text = f"{value:.2f}" if unit in ("%", "dB") else f"{value:.4g}"
    return f"{text} {unit}".strip()


def _markdown_table(rows: tuple[GateRow, ...]) -> str:
    lines = ["| gate | of | baseline | now | allowed | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (row.gate, row.of, *_numbers(row), row.allowed, _verdict(row))
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is: names come from models and paths."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&$])", r"\\\1", printable(text.replace("\n", " ")))
