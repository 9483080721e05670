"""`edgecompile check`: a bundle beside its baseline, gate by gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.artifact import Bundle, load_bundle
from edgecompile.errors import BaselineMismatchError, EdgecompileError, UsageError, did_you_mean
from edgecompile.progress import Progress, QuietProgress
from edgecompile.regression import gates, layer_gates
from edgecompile.regression.baseline import Baseline, baseline_of, check_comparable, read_baseline
from edgecompile.regression.facts import BuildFacts, EmulatedCore
from edgecompile.regression.gates import Builds, Gate, GateRow
from edgecompile.regression.paired_tests import can_tell
from edgecompile.regression.read_facts import read_facts
from edgecompile.regression.tolerances import Tolerances, tolerances

LATENCY, IDENTICAL = "latency", "identical"
GATES: Mapping[str, Gate] = {
    "artifacts": gates.artifacts,
    "float-model": gates.float_model,
    "accuracy": gates.accuracy,
    "agreement": gates.agreement,
    "sqnr": gates.sqnr,
    IDENTICAL: gates.identical,
    "input-range": gates.input_range,
    "layers": layer_gates.layers,
    **layer_gates.NUMBERS,
    "operators": gates.operators,
    "size": gates.size,
    "instructions": gates.instructions,
    "load-instructions": gates.load_instructions,
    "memory": gates.memory,
}
ALL_GATES = (*GATES, LATENCY)
_COUNTED = ("instructions", "load-instructions")
_NUMERIC = ("accuracy", "agreement", "sqnr", IDENTICAL)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found.

    Attributes:
        first_divergence: The first layer that is not as it was; None where all are.
        skipped: Gates that the user left out.
        notes: What could not be compared, and why.
    """

    bundle: str
    baseline: str
    rows: tuple[GateRow, ...]
    first_divergence: str | None
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not self.failures

    @property
    def failures(self) -> tuple[GateRow, ...]:
        """The rows that do not hold."""
        return tuple(row for row in self.rows if row.failed)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {"passed": self.passed, **dataclasses.asdict(self)}


def make_baseline(
    path: Path,
    *,
    core: EmulatedCore | None,
    memory: bool,
    earlier: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[Baseline, tuple[str, ...]]:
    """Return the baseline of a bundle, and what of it could not be measured.

    Args:
        path: The bundle.
        core: On which instructions are counted; not at all if None.
        memory: Whether memory is measured, on this host.
        earlier: The baseline that this one is to replace, if there is one: its tolerances stay.
        overrides: Tolerances in place of the earlier ones.
        progress: Is told of each step.

    Raises:
        EdgecompileError: The bundle is damaged; a tool is missing; an artifact fails.
    """
    known, notes = _earlier_tolerances(earlier)
    allowed = tolerances(known, overrides or {}, "--tolerance")
    build, found = _measured(load_bundle(path), core, memory=memory, progress=progress or QuietProgress())
    return baseline_of(build, allowed), (*notes, *found)


def _earlier_tolerances(path: Path | None) -> tuple[Tolerances, tuple[str, ...]]:
    if path is None or not path.exists():
        return Tolerances(), ()
    try:
        return read_baseline(path).tolerances, ()
    except EdgecompileError as error:  # a baseline of another version is replaced just because of that
        return Tolerances(), (
            f"tolerances of the earlier baseline are lost: {error.message.splitlines()[0]}",
        )


def check(
    path: Path,
    baseline_file: Path,
    *,
    skip: Sequence[str] = (),
    against: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Check:
    """Compare a bundle with a baseline.

    What the baseline has is measured again, the instructions on the same emulated core.

    Args:
        path: The bundle.
        baseline_file: The baseline.
        skip: Gates that are left out.
        against: The baseline's own bundle, to compare times with.
        overrides: Tolerances in place of the baseline's.
        progress: Is told of each step.

    Raises:
        BaselineMismatchError: The baseline is of something else.
        EvaluationDataChangedError: The quality was measured on other data.
        EdgecompileError: A file is damaged; a tool is missing; an artifact fails.
    """
    for name in skip:
        if name not in ALL_GATES:
            guess = did_you_mean(name, ALL_GATES)
            hint = f"did you mean {guess!r}?" if guess else None
            raise UsageError(f"there is no gate {name!r}", known=", ".join(ALL_GATES), hint=hint)
    progress = progress or QuietProgress()
    baseline = read_baseline(baseline_file)
    allowed = tolerances(baseline.tolerances, overrides or {}, "--tolerance")
    bundle = load_bundle(path)
    build = read_facts(bundle)
    check_comparable(baseline, build, baseline_file)
    kept = baseline.build
    if kept.host != build.host and IDENTICAL not in skip:
        skip = (*skip, IDENTICAL)  # kernels differ in the last bits from CPU to CPU
    counted = any(name not in skip for name in _COUNTED)
    with_memory = any(item.memory_bytes is not None for item in kept.artifacts.values())
    build, notes = _measured(
        bundle,
        kept.core if counted else None,
        memory=with_memory and "memory" not in skip,
        progress=progress,
        build=build,
    )
    builds = Builds(baseline=kept, now=build, allowed=allowed)
    rows = [row for name, gate in GATES.items() if name not in skip for row in gate(builds)]
    if against is not None and LATENCY not in skip:
        rows += _latency(path, against, builds, progress)
    diverged = layer_gates.first_divergence(builds)
    worse = {row.of.partition(" ")[0] for row in rows if row.failed and row.gate in _NUMERIC}
    if diverged is None and worse & set(build.artifacts):
        diverged = _first_wrong_layer(path, worse, progress)
    return Check(
        bundle=str(path),
        baseline=str(baseline_file),
        rows=tuple(rows),
        first_divergence=diverged,
        skipped=tuple(skip),
        notes=(*notes, *_notes(builds)),
    )


def _measured(
    bundle: Bundle,
    core: EmulatedCore | None,
    *,
    memory: bool,
    progress: Progress,
    build: BuildFacts | None = None,
) -> tuple[BuildFacts, tuple[str, ...]]:
    build = build or read_facts(bundle)
    if core is None and not memory:
        return build, ()
    from edgecompile.regression.measure_facts import with_instructions, with_memory

    notes: tuple[str, ...] = ()
    if core is not None:
        build, found = with_instructions(bundle.path, build, core, progress)
        notes += found
    if memory:
        build, found = with_memory(bundle.path, build, progress)
        notes += found
    return build, tuple(dict.fromkeys(notes))


def _first_wrong_layer(path: Path, formats: set[str], progress: Progress) -> str | None:
    """Return the first layer that an engine computes otherwise than the reference; None where there is none.

    The program is as good as it was, and an artifact of it is not: so it was lowered wrongly.
    """
    from edgecompile.validate import validate

    for name, layers in validate(path, progress=progress).layers.items():
        for layer in layers:
            if name in formats and not layer.passed:
                place = layer_gates.described(layer)
                return f"{layer.name} ({place}) of .{name}: {layer.identical:.2%} equal the reference"
    return None


def _latency(path: Path, against: Path, builds: Builds, progress: Progress) -> list[GateRow]:
    from edgecompile.regression.measure_facts import latency_ratios

    other = {item.format: item.sha256 for item in load_bundle(against).artifacts}
    formats = [name for name in builds.baseline.artifacts if name in builds.now.artifacts]
    for name in formats:
        if other.get(name) != builds.baseline.artifacts[name].sha256:
            raise BaselineMismatchError(
                f"the .{name} of the bundle to compare times with is not the baseline's",
                where=str(against),
                expected=f"SHA-256 {builds.baseline.artifacts[name].sha256}",
                found=f"SHA-256 {other[name]}" if name in other else "none",
                hint="give the bundle that the baseline was written from",
            )
    most = builds.allowed.latency_ratio
    return [
        GateRow(
            gate=LATENCY,
            of=name,
            baseline=1.0,
            now=ratio.median,
            allowed=f"x {most:g}",
            # Three quarters of the rounds must say so: single ones are disturbed by whatever else runs.
            verdict="failed" if ratio.low > most else "passed",
            detail=f"quartiles {ratio.low:.3f} to {ratio.high:.3f}, in turns on this host",
        )
        for name, ratio in latency_ratios(path, against, formats, progress).items()
    ]


def _notes(builds: Builds) -> list[str]:
    kept, build = builds.baseline, builds.now
    notes = []
    if not can_tell(build.samples, builds.allowed.significance):
        notes.append(
            f"{build.samples} samples are too few to tell a loss of accuracy or SQNR from chance: "
            "give more with --evaluation"
        )
    if kept.host != build.host:
        notes.append(f"the baseline was measured on another CPU ({kept.host}), this build on {build.host}")
    if kept.calibration_sha256 != build.calibration_sha256:
        notes.append("the calibration data is another than the baseline's")
    if kept.core is None:
        notes.append("the baseline has no instructions: `edgecompile baseline` counts them on the emulator")
    return notes
