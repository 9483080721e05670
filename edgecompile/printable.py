"""Text from elsewhere, such as the names in a bundle or a baseline, as it may be shown."""

from __future__ import annotations

_SPACE = "\N{NO-BREAK SPACE}"


def printable(text: str) -> str:
    """Return a line without what terminals obey and XML and UTF-8 cannot hold: controls, half surrogates."""
    return "".join(
        letter if letter.isprintable() or letter == _SPACE else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def printable_lines(text: str) -> str:
    """Return lines in which each is printable."""
    return "\n".join(map(printable, text.split("\n")))
