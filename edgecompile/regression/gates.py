"""The gates: each compares one number of a build with its baseline's, and says whether that may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from edgecompile.decibels import EXACT_DB, LOWEST_SQNR_DB, stored_sqnr_db
from edgecompile.regression.facts import ArtifactFacts, BuildFacts, InstructionFacts
from edgecompile.regression.paired_tests import Energies, bootstrap_sqnr_drop, mcnemar
from edgecompile.regression.sketch import sketched_sqnr_db
from edgecompile.regression.tolerances import Tolerances
from edgecompile.sample_scores import unpack

Verdict = Literal["passed", "failed", "missing", "new"]


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """What one gate found.

    Attributes:
        gate: Its name, as `--skip` takes it.
        of: The artifact, output or layer.
        baseline: The number there, None where there is none.
        now: That of the build.
        unit: "%", "dB", "bytes", "instructions", or "" for other counts and ratios.
        allowed: What it may be, in words.
        verdict: "missing" is a failure too: the baseline has a number that the build has not. "new" is none:
            only the build has it.
        detail: The test behind it, or what is worst.
    """

    gate: str
    of: str
    baseline: float | None = None
    now: float | None = None
    unit: str = ""
    allowed: str
    verdict: Verdict = "passed"
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the build must not go on."""
        return self.verdict in ("failed", "missing")


@dataclass(frozen=True, kw_only=True)
class Builds:
    """What is compared, and what may differ."""

    baseline: BuildFacts
    now: BuildFacts
    allowed: Tolerances


Gate = Callable[[Builds], Iterator[GateRow]]


def float_model(builds: Builds) -> Iterator[GateRow]:
    """The model itself: its outputs on the goldens beside those of the baseline's model."""
    least = builds.allowed.float_sqnr_db
    try:
        found = sketched_sqnr_db(builds.now.float_sketch, builds.baseline.float_sketch)
    except ValueError as error:
        found, detail = LOWEST_SQNR_DB, str(error)
    else:
        detail = "" if found >= least else "weights or code of the model changed"
    yield GateRow(
        gate="float-model",
        of="float",
        now=min(max(found, LOWEST_SQNR_DB), EXACT_DB),
        unit="dB",
        allowed=f"at least {least:g} dB",
        verdict="passed" if found >= least else "failed",
        detail=detail,
    )


def accuracy(builds: Builds) -> Iterator[GateRow]:
    """Top-1 on the labels, of the float model and of each artifact."""
    before, now = builds.baseline, builds.now
    points = builds.allowed.accuracy_drop_points
    row = GateRow(gate="accuracy", of="float", unit="%", allowed=f"-{points:g} points")
    yield from _shares(row, before.float_correct, now.float_correct, builds, points)
    for name, old, new in _both(builds):
        yield from _shares(replace(row, of=name), old.scores.correct, new.scores.correct, builds, points)


def agreement(builds: Builds) -> Iterator[GateRow]:
    """Top-1 agreement with the float model."""
    points = builds.allowed.agreement_drop_points
    for name, old, new in _both(builds):
        row = GateRow(gate="agreement", of=name, unit="%", allowed=f"-{points:g} points")
        yield from _shares(row, old.scores.same_top1, new.scores.same_top1, builds, points)


def sqnr(builds: Builds) -> Iterator[GateRow]:
    """SQNR of all outputs, and of each where there are several: a large one hides what others lose."""
    for name, old, new in _both(builds):
        before, now = old.scores.energies(), new.scores.energies()  # (2, outputs, blocks)
        yield _sqnr(name, before.sum(axis=1), now.sum(axis=1), builds.allowed)
        outputs = builds.now.outputs if len(builds.now.outputs) > 1 else ()
        for place, output in enumerate(outputs):
            yield _sqnr(f"{name} {output.name}", before[:, place], now[:, place], builds.allowed)


def _sqnr(of: str, before: Energies, now: Energies, allowed: Tolerances) -> GateRow:
    found = bootstrap_sqnr_drop(before, now, significance=allowed.significance)
    is_larger = found.drop_db > allowed.sqnr_drop_db
    return GateRow(
        gate="sqnr",
        of=of,
        baseline=stored_sqnr_db(*before.sum(axis=1).tolist()),
        now=stored_sqnr_db(*now.sum(axis=1).tolist()),
        unit="dB",
        allowed=f"-{allowed.sqnr_drop_db:g} dB",
        verdict=_verdict(not (is_larger and found.is_sure)),
        detail=found.text() if is_larger else "",
    )


def input_range(builds: Builds) -> Iterator[GateRow]:
    """The share of the samples' elements that the range of a quantized input clips."""
    points = builds.allowed.clipped_rise_points
    for name, old in builds.baseline.input_ranges.items():
        new = builds.now.input_ranges.get(name)
        row = GateRow(
            gate="input-range", of=name, baseline=100 * old.outside, unit="%", allowed=f"+{points:g} points"
        )
        if new is None:
            yield replace(row, verdict="missing", detail="the input is not quantized any more")
            continue
        yield replace(
            row,
            now=100 * new.outside,
            verdict=_verdict(100 * (new.outside - old.outside) <= points),
            detail=f"outside {new.low:.4g} to {new.high:.4g}, before {old.low:.4g} to {old.high:.4g}",
        )


def identical(builds: Builds) -> Iterator[GateRow]:
    """The share of output elements that are equal to the reference's to the bit."""
    allowed = builds.allowed.identical_drop_points
    for name, old, new in _both(builds):
        yield GateRow(
            gate="identical",
            of=name,
            baseline=old.identical * 100,
            now=new.identical * 100,
            unit="%",
            allowed=f"-{allowed:g} points",
            verdict=_verdict((old.identical - new.identical) * 100 <= allowed + 1e-9),
        )


def size(builds: Builds) -> Iterator[GateRow]:
    """The artifact's size."""
    for name, old, new in _both(builds):
        percent = builds.allowed.size_growth_percent
        row = GateRow(gate="size", of=name, unit="bytes", allowed=f"+{percent:g}%")
        yield from _growth(row, old.size_bytes, new.size_bytes, percent)


def operators(builds: Builds) -> Iterator[GateRow]:
    """What an engine executes outside its delegates, and how often it calls them; what is not quantized."""
    allowed = builds.allowed.more_operators
    for name, old, new in _both(builds):
        more = {key: count - old.operators.get(key, 0) for key, count in new.operators.items()}
        more["calls of delegates"] = new.delegate_calls - old.delegate_calls
        worse = [f"{count} more {key}" for key, count in sorted(more.items()) if count > allowed]
        yield GateRow(
            gate="operators",
            of=name,
            baseline=sum(old.operators.values()) + old.delegate_calls,
            now=sum(new.operators.values()) + new.delegate_calls,
            allowed=f"+{allowed} of a name",
            verdict=_verdict(not worse),
            detail=", ".join(worse),
        )
    before, now = builds.baseline.float_operators, builds.now.float_operators
    allowed = builds.allowed.more_float_operators
    yield GateRow(
        gate="operators",
        of="in float",
        baseline=before,
        now=now,
        allowed=f"+{allowed}",
        verdict=_verdict(now - before <= allowed),
    )


def instructions(builds: Builds) -> Iterator[GateRow]:
    """What the emulated core executes for one inference."""
    percent = builds.allowed.instructions_growth_percent
    yield from _counts(builds, "instructions", lambda found: found.per_inference, percent)


def load_instructions(builds: Builds) -> Iterator[GateRow]:
    """What it executes to load the artifact."""
    percent = builds.allowed.load_growth_percent
    yield from _counts(builds, "load-instructions", lambda found: found.load, percent)


def memory(builds: Builds) -> Iterator[GateRow]:
    """How much a process on the host grows."""
    percent = builds.allowed.memory_growth_percent
    for name, old, new in _both(builds):
        row = GateRow(gate="memory", of=name, unit="bytes", allowed=f"+{percent:g}%")
        yield from _growth(row, old.memory_bytes, new.memory_bytes, percent)


def artifacts(builds: Builds) -> Iterator[GateRow]:
    """Which artifacts there are."""
    before, now = builds.baseline.artifacts, builds.now.artifacts
    for name in [*before, *(name for name in now if name not in before)]:
        verdict: Verdict = "passed" if name in before and name in now else "missing"
        if name not in before:
            verdict = "new"
        detail = {"missing": f"the build has no {name}: add `--format {name}`", "new": _NEW}
        yield GateRow(
            gate="artifacts",
            of=name,
            baseline=int(name in before),
            now=int(name in now),
            allowed="the same",
            verdict=verdict,
            detail=detail.get(verdict, ""),
        )


_NEW = "not in the baseline: write it again to hold it"


def _both(builds: Builds) -> Iterator[tuple[str, ArtifactFacts, ArtifactFacts]]:
    for name, old in builds.baseline.artifacts.items():
        if name in builds.now.artifacts:
            yield name, old, builds.now.artifacts[name]


def _shares(
    row: GateRow, before: str | None, now: str | None, builds: Builds, points: float
) -> Iterator[GateRow]:
    """Compare two shares of the same samples; nothing to compare gives no row."""
    count = builds.now.samples
    old, new = (None if bits is None else unpack(bits, count) for bits in (before, now))
    row = replace(row, baseline=_percent(old), now=_percent(new))
    if old is None or new is None:
        yield from _one_sided(row, "the build has no labels or classes any more")
        return
    found = mcnemar(old, new)
    lost = 100 * (found.lost - found.won) / count > points + 1e-9
    detail = found.text() if found.lost or found.won else ""
    significant = found.p_value < builds.allowed.significance
    yield replace(row, verdict=_verdict(not (lost and significant)), detail=detail)


def _percent(bits: list[bool] | None) -> float | None:
    return None if bits is None else 100 * sum(bits) / len(bits)


def _counts(
    builds: Builds, gate: str, of: Callable[[InstructionFacts], int], percent: float
) -> Iterator[GateRow]:
    for name, old, new in _both(builds):
        before, now = old.instructions, new.instructions
        row = GateRow(gate=gate, of=name, unit="instructions", allowed=f"+{percent:g}%")
        yield from _growth(
            row, None if before is None else of(before), None if now is None else of(now), percent
        )


def _growth(row: GateRow, before: int | None, now: int | None, percent: float) -> Iterator[GateRow]:
    """Compare what may not have been measured; nothing to compare gives no row."""
    row = replace(row, baseline=before, now=now)
    if before is None or now is None:
        yield from _one_sided(row, "it was not measured of this build")
        return
    yield replace(row, verdict=_verdict(now <= before * (1 + percent / 100)))


def _one_sided(row: GateRow, missing: str) -> Iterator[GateRow]:
    if row.baseline is not None:
        yield replace(row, verdict="missing", detail=missing)
    elif row.now is not None:
        yield replace(row, verdict="new", detail=_NEW)


def _verdict(passed: bool) -> Verdict:
    return "passed" if passed else "failed"
