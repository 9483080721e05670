"""What is odd about the data or the program: it stops no build, and the model's author should know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was found: a note while a build runs, and a row of the report.

    Attributes:
        code: Its kind in kebab-case, `few-calibration-samples`.
        what: The data, the model's input or the operator.
        where: The user's source line, `file.py:12`, or "".
        text: What is so, and what it does, in a sentence.
    """

    code: str
    what: str
    where: str = ""
    text: str
