"""Numeric comparison: what "the same" means between a reference and what an engine computed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgecompile.decibels import sqnr_db
from edgecompile.sample_scores import SampleScores, blocks_of, pack, rounded


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How close outputs are to the float model's, over all samples and outputs.

    Attributes:
        sqnr_db: Signal to quantization noise ratio in dB, `10 log10(sum(float^2) / sum(error^2))`;
            infinite where there is no error.
        max_abs_error: The largest absolute difference; the largest number where it is infinite or none.
        agreement: The share of samples, 0 to 1, whose largest entry of the first output is the same
            (top-1); None where the outputs have no axis to take it over.
    """

    sqnr_db: float
    max_abs_error: float
    agreement: float | None


Outputs = Sequence[tuple[torch.Tensor, ...]]  # one tuple of outputs a sample


def closeness(outputs: Outputs, expected: Outputs) -> Closeness:
    """Compare outputs with the float model's, sample by sample."""
    signal = noise = largest = 0.0
    for got, wanted in zip(outputs, expected, strict=True):
        for value, reference in zip(got, wanted, strict=True):
            of_reference, of_error = _energies(value, reference)
            signal, noise = signal + of_reference, noise + of_error
            error = (value.double() - reference.double()).abs()
            worst = float(error.max()) if error.numel() else 0.0
            largest = max(largest, worst if math.isfinite(worst) else sys.float_info.max)
    return Closeness(
        sqnr_db=sqnr_db(signal, noise), max_abs_error=largest, agreement=agreement(outputs, expected)
    )


def sample_scores(outputs: Outputs, expected: Outputs, labels: Sequence[int] | None) -> SampleScores:
    """Compare outputs with the float model's, and keep what a paired test needs.

    Args:
        outputs: Of the run.
        expected: The float model's.
        labels: A class for each sample, where they are known.
    """
    energies = np.array(  # (samples, outputs, 2): of the float model, of the error
        [
            [_energies(*values) for values in zip(got, wanted, strict=True)]
            for got, wanted in zip(outputs, expected, strict=True)
        ]
    )
    blocks = np.array([energies[list(block)].sum(axis=0) for block in blocks_of(len(energies))])
    signal, noise = blocks.transpose(2, 1, 0)  # (outputs, blocks) each
    same = _same_top1(outputs, expected)
    return SampleScores(
        correct=None if labels is None else pack(_correct(outputs, labels)),
        same_top1=None if same is None else pack(same),
        signal=tuple(map(rounded, signal)),
        noise=tuple(map(rounded, noise)),
    )


def _energies(value: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Return the energy of the reference and that of the error."""
    error = value.double() - reference.double()
    return float((reference.double() ** 2).sum()), float((error**2).sum())


def agreement(outputs: Outputs, expected: Outputs) -> float | None:
    """Return the share of samples with the same top-1, or None where there is no axis of classes."""
    same = _same_top1(outputs, expected)
    return None if same is None else sum(same) / len(same)


def _same_top1(outputs: Outputs, expected: Outputs) -> list[bool] | None:
    if not expected or expected[0][0].dim() < 2 or expected[0][0].shape[1] < 2:
        return None
    return [top1(got) == top1(wanted) for got, wanted in zip(outputs, expected, strict=True)]


def top1(outputs: tuple[torch.Tensor, ...]) -> list[int]:
    """Return the index of the largest entry of the first output along its axis 1."""
    indices: list[int] = outputs[0].argmax(dim=1).flatten().tolist()
    return indices


def accuracy(outputs: Outputs, labels: Sequence[int]) -> float:
    """Return top-1 accuracy, 0 to 1."""
    return sum(_correct(outputs, labels)) / len(labels)


def _correct(outputs: Outputs, labels: Sequence[int]) -> list[bool]:
    return [top1(got)[0] == label for got, label in zip(outputs, labels, strict=True)]


def first_difference(outputs: Outputs, expected: Outputs) -> int | None:
    """Return the first sample that has an output element which is not equal to the bit, or None."""
    pairs = zip(outputs, expected, strict=True)
    differing = (index for index, (got, wanted) in enumerate(pairs) if identical_share([got], [wanted]) < 1)
    return next(differing, None)


def identical_share(outputs: Outputs, expected: Outputs) -> float:
    """Return the share of output elements, 0 to 1, that are equal to the bit."""
    equal = total = 0
    for got, wanted in zip(outputs, expected, strict=True):
        for value, reference in zip(got, wanted, strict=True):
            equal += int((value == reference).sum())
            total += value.numel()
    return equal / total if total else 1.0
