"""Whether a build is worse on the same samples than its baseline, or only unlucky with a few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecompile.decibels import EXACT_DB, LOWEST_SQNR_DB

Energies = NDArray[np.float64]

_RESAMPLES = 4000
_LEAST = 10 ** (-EXACT_DB / 10)  # of error to signal, where there is no error
_MOST = 10 ** (-LOWEST_SQNR_DB / 10)  # and where the error is no number


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two runs on the same samples, each right or wrong on every one.

    Attributes:
        lost: How many samples only the baseline has right.
        won: How many only the new run has right.
        p_value: Of as many losses or more, if losses and wins were equally likely.
    """

    lost: int
    won: int
    p_value: float

    def text(self) -> str:
        """Say what was found."""
        return f"{self.lost} samples lost, {self.won} won, p = {self.p_value:.2g}"


def mcnemar(baseline: Sequence[bool], now: Sequence[bool]) -> McNemar:
    """Return the exact one-sided test of McNemar (1947): a binomial one of the samples that changed."""
    pairs = list(zip(baseline, now, strict=True))
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    changed = lost + won
    tail = ways = math.comb(changed, lost)
    for count in range(lost, changed):
        ways = ways * (changed - count) // (count + 1)  # to choose one more
        tail += ways
    return McNemar(lost=lost, won=won, p_value=tail / 2**changed)


def can_tell(samples: int, significance: float) -> bool:
    """Return whether so many samples can be significant at all: by chance all are worse in 2^-samples."""
    return 2.0**-samples < significance


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Two runs' SQNR on the same samples.

    Attributes:
        drop_db: From the baseline's to the new run's.
        low_db: The drop is larger than this with the wanted certainty; None of too few samples.
        broken: In how many blocks of samples only the new run's outputs are no numbers.
    """

    drop_db: float
    low_db: float | None
    broken: int

    @property
    def is_sure(self) -> bool:
        """Whether the drop is no chance; that numbers are none any more never is."""
        return self.broken > 0 or (self.low_db is not None and self.low_db > 0)

    def text(self) -> str:
        """Say what was found."""
        if self.broken:
            return f"infinite or no numbers in {self.broken} blocks of samples"
        if self.low_db is None:
            return "too few samples"
        return f"surely more than {self.low_db:.2f} dB" if self.low_db > 0 else "not significant"


def bootstrap_sqnr_drop(baseline: Energies, now: Energies, *, significance: float) -> Bootstrap:
    """Return the paired bootstrap (Efron 1979) of a drop in SQNR over blocks of samples.

    Args:
        baseline: The energies of signal and noise of the baseline's run, (2, blocks).
        now: Those of the same samples' blocks in the new run.
        significance: One-sided.
    """
    energies = np.concatenate([baseline, now])  # (4, blocks)
    blocks = energies.shape[1]
    low = None
    if can_tell(blocks, significance):
        chosen = np.random.RandomState(0).randint(0, blocks, (_RESAMPLES, blocks))
        drops = _drop_db(energies[:, chosen].sum(axis=2))
        low = float(np.quantile(drops, significance, method="lower"))
    return Bootstrap(
        drop_db=float(_drop_db(energies.sum(axis=1))),
        low_db=low,
        broken=int((np.isfinite(baseline[1]) & ~np.isfinite(now[1])).sum()),
    )


def _drop_db(energies: Energies) -> NDArray[np.float64]:
    """Return by how much an SQNR fell; (4, ...) energies give (...) dB."""
    before, now = (_sqnr_db(signal, noise) for signal, noise in (energies[:2], energies[2:]))
    return before - now


def _sqnr_db(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    is_known = (signal > 0) & np.isfinite(signal) & np.isfinite(noise)
    ratio = np.divide(noise, signal, out=np.full_like(noise, _MOST), where=is_known)
    ratio[noise == 0] = _LEAST  # also of a signal of zeros
    found: NDArray[np.float64] = -10 * np.log10(np.clip(ratio, _LEAST, _MOST))
    return found
