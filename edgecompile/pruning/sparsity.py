"""How many weights are to be zero: `--sparsity 0.5`, or `--sparsity 2:4`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgecompile.errors import UsageError

_GREATEST = 64  # No hardware has patterns of more neighbours.


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """What is asked for.

    Attributes:
        share: Of the weights that are zero, above 0 and below 1.
        pattern: `(n, m)` where of each m neighbouring weights at most n are not zero, as in NVIDIA's 2:4
            (Mishra et al. 2021, arXiv:2104.08378); None where any weights may be.
    """

    share: float
    pattern: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        """What was said: `0.5` or `2:4`."""
        return f"{self.share:g}" if self.pattern is None else "{}:{}".format(*self.pattern)


def parse_sparsity(text: str, origin: str) -> Sparsity:
    """Return what a text asks for.

    Args:
        text: A share, or N:M.
        origin: What said it.

    Raises:
        UsageError: It is neither.
    """
    parts = re.fullmatch(r"\s*(\d{1,3})\s*:\s*(\d{1,3})\s*", text)
    if parts is not None:
        kept, of = map(int, parts.groups())
        if not 0 < kept < of <= _GREATEST:
            raise _wrong(text, origin)
        return Sparsity(share=1 - kept / of, pattern=(kept, of))
    try:
        share = float(text)
    except ValueError:
        raise _wrong(text, origin) from None
    if not 0 < share < 1:  # neither where it is no number
        raise _wrong(text, origin)
    return Sparsity(share=share)


def _wrong(text: str, origin: str) -> UsageError:
    return UsageError(
        f"{text!r} is no sparsity",
        where=f"sparsity: {origin}",
        expected="the share of the weights that become zero, above 0 and below 1, as 0.5;\n"
        f"or N:M with 0 < N < M <= {_GREATEST}, as 2:4: of M neighbouring weights along the input channels "
        "at most N are not zero",
    )
