"""What a check found, where names come from anybody: nothing in them steers a terminal or a parser."""

from xml.etree import ElementTree

from edgecompile.regression.check import Check
from edgecompile.regression.check_text import check_junit, check_markdown, check_text
from edgecompile.regression.gates import GateRow

HOSTILE = "a\x00\x1b[31m\r|b\udc80 ~~c~~ &lt; $x$ <script> [d](e)\n::error::"


def found() -> Check:
    row = GateRow(gate="size", of=HOSTILE, allowed="+2%", verdict="failed", detail=HOSTILE)
    return Check(
        bundle=HOSTILE,
        baseline=HOSTILE,
        rows=(row,),
        first_divergence=HOSTILE,
        skipped=("identical",),
        notes=(HOSTILE,),
    )


def test_terminal_is_not_steered():
    assert not {"\x00", "\x1b", "\r", "\udc80"} & set(check_text(found()))


def test_junit_is_xml():
    suite = ElementTree.fromstring(check_junit(found()).encode())
    (failure,) = suite.iter("failure")
    assert "<script>" in failure.text and [case.get("name") for case in suite] == ["size", "identical"]


def test_markdown_is_text():
    text = check_markdown(found())
    assert not {"\x00", "\x1b", "\r", "\udc80"} & set(text)
    rows = [line for line in text.splitlines() if line.startswith("| size")]
    assert len(rows) == 2 and all(row.replace("\\|", "").count("|") == 7 for row in rows)
    for written in (r"\<script\>", r"\~\~c", r"\&lt;", r"\$x\$", r"\[d\]"):
        assert written in text
