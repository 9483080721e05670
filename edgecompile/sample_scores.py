"""How good a run is sample by sample: what a paired comparison with another build's run needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, with_config

from edgecompile.strict_toml import STRICT

BLOCKS = 32
"""Into so many groups samples fall, so that what is kept of their energies stays small."""

Bits = Annotated[str, Field(pattern=r"^[0-9a-f]*$")]
"""One bit a sample, the first sample highest, in hexadecimal, padded with zeros at the end."""

_MOST_ENERGY = 1e300  # so that sums are finite, too
_Energies = tuple[tuple[Annotated[float, Field(ge=0, le=_MOST_ENERGY)] | None, ...], ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class SampleScores:
    """One run beside the float model.

    Attributes:
        correct: Which samples have the label as top-1; None without labels.
        same_top1: Which have float's top-1; None where the first output has no classes.
        signal: By output, the energy of the float model's, `sum(float^2)`, in each block of samples (see
            `blocks_of`).
        noise: The energy of the error there. An energy that is infinite (over 1e300) or NaN is None.
    """

    correct: Bits | None
    same_top1: Bits | None
    signal: _Energies
    noise: _Energies

    def energies(self) -> NDArray[np.float64]:
        """Return the energies of signal and noise, (2, outputs, blocks); infinite where they are None."""
        kept = [
            [[math.inf if value is None else value for value in blocks] for blocks in part]
            for part in (self.signal, self.noise)
        ]
        return np.array(kept, dtype=np.float64)


def pack(bits: Sequence[bool]) -> str:
    """Return bits as hexadecimal digits, four a digit."""
    text = "".join("1" if bit else "0" for bit in bits)
    text += "0" * (-len(text) % 4)
    return "".join(f"{int(text[place : place + 4], 2):x}" for place in range(0, len(text), 4))


def digits_for(count: int) -> int:
    """Return how many hexadecimal digits hold the bits of so many samples."""
    return math.ceil(count / 4)


def unpack(text: str, count: int) -> list[bool]:
    """Return the first `count` bits of hexadecimal digits.

    Raises:
        ValueError: There are not as many, or no hexadecimal digits.
    """
    if len(text) != digits_for(count):
        raise ValueError(f"{len(text)} hexadecimal digits are not those of {count} samples")
    bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    return [bit == "1" for bit in bits[:count]]


def blocks_of(count: int) -> list[range]:
    """Return which samples each block holds: neighbours, in blocks that differ by one at most."""
    blocks = min(BLOCKS, count)
    edges = [place * count // blocks for place in range(blocks + 1)]
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def rounded(energies: Sequence[float]) -> tuple[float | None, ...]:
    """Return energies to six digits, as a report holds them."""
    return tuple(float(f"{energy:.6g}") if energy <= _MOST_ENERGY else None for energy in energies)
