"""End to end: how good each artifact is on real inputs, beside the float model and the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from edgecompile.artifact_run import ArtifactRun
from edgecompile.compare import (
    Closeness,
    Outputs,
    accuracy,
    closeness,
    first_difference,
    identical_share,
    sample_scores,
)
from edgecompile.dataset import Dataset, Sample
from edgecompile.engine import load_engine
from edgecompile.errors import InternalError, LabelOutOfRangeError
from edgecompile.program import Precision
from edgecompile.progress import Progress
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.reference import Reference
from edgecompile.sample_scores import SampleScores
from edgecompile.strict_toml import parse
from edgecompile.target import Target, ValidationSettings


@dataclass(frozen=True, kw_only=True)
class Equality:
    """How the outputs of a native run compare with the same artifact's in Python on this host.

    Attributes:
        name: The row of the artifact in Python.
        identical: The share of output elements, 0 to 1, that are equal to the bit.
        first_sample: The index of the first sample with one that is not; None where there is none.
        max_abs_difference: The largest one.
    """

    name: str
    identical: float
    first_sample: int | None
    max_abs_difference: float


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One row: what computed, and how good it was over all samples.

    Attributes:
        name: "float", "reference", or an artifact's run.
        against_float: None for the float model itself.
        reference: The same for the integer-exact reference in this engine's arithmetic; None for what is
            no artifact.
        identical: The share of output elements, 0 to 1, equal to that reference to the bit.
        as_here: Of a native run only.
        accuracy: Top-1 on the labels, 0 to 1; None without labels.
        missed: The thresholds of the target that are missed, in words.
        scores: Sample by sample; of the float model itself and of artifacts.
    """

    name: str
    against_float: Closeness | None
    accuracy: float | None
    reference: Closeness | None = None
    identical: float | None = None
    as_here: Equality | None = None
    missed: tuple[str, ...] = ()
    scores: SampleScores | None = None


def quality_from_dict(row: dict[str, Any]) -> Quality:
    """Return the row that `dataclasses.asdict` gave."""
    kinds = {"against_float": Closeness, "reference": Closeness, "as_here": Equality}
    nested = {name: kind(**row[name]) for name, kind in kinds.items() if row[name] is not None}
    if row["scores"] is not None:
        nested["scores"] = parse(SampleScores, row["scores"], InternalError, str)
    return Quality(**row | nested | {"missed": tuple(row["missed"])})


def needs_precise_host(target: Target) -> bool:
    """Tell whether this host's default arithmetic may be worse than the target's own."""
    return target.architecture != "x86-64"


def run_float(exported: ExportedProgram, samples: Sequence[Sample], progress: Progress) -> Outputs:
    """Return the float program's outputs."""
    progress.start("float model")
    module = exported.module(check_guards=False)
    with torch.no_grad():
        outputs = [_tuple(module(*sample.inputs)) for sample in samples]
    progress.finish(f"{len(samples)} samples")
    return outputs


def check_labels(data: Dataset, outputs: Outputs) -> None:
    """Check that every label is a class: an index along axis 1 of the model's first output.

    Raises:
        LabelOutOfRangeError: One is not.
    """
    for index, (sample, (first, *_)) in enumerate(zip(data.samples, outputs, strict=True)):
        classes = first.shape[1] if first.dim() > 1 else 0
        if sample.label is None or 0 <= sample.label < classes:
            continue
        raise LabelOutOfRangeError(
            f"the label {sample.label} is no class of the model",
            where=f"{data.spec}, sample {index}",
            expected=f"0 to {classes - 1}" if classes else "no label: the first output has no classes",
            found=f"a first output of shape {list(first.shape)}",
            hint="count classes from 0; leave labels out that are no classes of the first output",
        )


def run_references(
    exported: ExportedProgram,
    samples: Sequence[Sample],
    arithmetics: Sequence[Arithmetic],
    progress: Progress,
) -> dict[Arithmetic, Outputs]:
    """Return the integer-exact reference's outputs in each arithmetic."""
    progress.start("reference", len(samples))
    reference = Reference(exported, *arithmetics)
    outputs: dict[Arithmetic, list[tuple[torch.Tensor, ...]]] = {name: [] for name in arithmetics}
    with torch.no_grad():
        for sample in samples:
            for name, found in reference.run_each(sample.inputs).items():
                outputs[name].append(found)
            progress.advance()
    progress.finish(f"{len(samples)} samples, {', '.join(arithmetics)}")
    return dict(outputs)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """An artifact's outputs on all samples, and where it ran."""

    name: str
    format: str
    engine: str
    native: bool
    outputs: Outputs


def run_one(artifact: ArtifactRun, samples: Sequence[Sample], progress: Progress) -> Ran:
    """Run an artifact on all samples.

    Raises:
        EngineFailedError: The engine rejects the artifact or its inputs.
    """
    progress.start(f"run {artifact.name}", len(samples))
    outputs = []
    for output in artifact.run(sample.inputs for sample in samples):
        outputs.append(output)
        progress.advance()
    progress.finish(f"{len(samples)} samples")
    return Ran(
        name=artifact.name,
        format=artifact.format,
        engine=artifact.engine,
        native=artifact.native,
        outputs=outputs,
    )


def arithmetics_of(engines: Sequence[str]) -> tuple[Arithmetic, ...]:
    """Return the arithmetics that references are needed in: the exact one, and those of the engines."""
    return tuple(dict.fromkeys(("exact", *(load_engine(name).arithmetic for name in engines))))


def evaluate(
    exported: ExportedProgram,
    artifacts: Sequence[ArtifactRun],
    samples: Sequence[Sample],
    float_outputs: Outputs,
    *,
    precision: Precision,
    settings: ValidationSettings,
    progress: Progress,
) -> tuple[Quality, ...]:
    """Run the reference and every artifact on the samples, and compare with the float model's outputs.

    Args:
        exported: The program that the artifacts were lowered from.
        artifacts: What to run, and where; native runs after those in Python.
        samples: Inputs, and labels where they are known.
        float_outputs: The model's own outputs for them.
        precision: Of the program.
        settings: The thresholds.
        progress: Is told of each artifact.

    Raises:
        EngineFailedError: An engine rejects an artifact or its inputs.
    """
    arithmetics = arithmetics_of([artifact.engine for artifact in artifacts])
    references = run_references(exported, samples, arithmetics, progress)
    ran = [run_one(artifact, samples, progress) for artifact in artifacts]
    return quality_rows(ran, references, samples, float_outputs, precision=precision, settings=settings)


def quality_rows(
    ran: Sequence[Ran],
    references: Mapping[Arithmetic, Outputs],
    samples: Sequence[Sample],
    float_outputs: Outputs,
    *,
    precision: Precision,
    settings: ValidationSettings,
) -> tuple[Quality, ...]:
    """Compare outputs with the float model's, and with the reference's in each engine's arithmetic.

    Args:
        ran: What the artifacts gave; native runs after those in Python.
        references: What the reference gave, in each arithmetic that is needed.
        samples: Give the labels, where all have one.
        float_outputs: The model's own outputs.
        precision: Of the program: where only weights are quantized, the engines compute what the reference
            computes, and are held to that.
        settings: The thresholds.
    """
    labels = [sample.label for sample in samples if sample.label is not None]
    labelled = labels if len(labels) == len(samples) else None

    def task(outputs: Outputs) -> float | None:
        return accuracy(outputs, labelled) if labelled is not None else None

    base = closeness(references["exact"], float_outputs)
    rows = [
        Quality(
            name="float",
            against_float=None,
            accuracy=task(float_outputs),
            scores=sample_scores(float_outputs, float_outputs, labelled),
        ),
        Quality(name="reference", against_float=base, accuracy=task(references["exact"])),
    ]
    here = {run.format: (run.name, run.outputs) for run in ran if not run.native}
    for run in ran:
        own = references[load_engine(run.engine).arithmetic]
        found, expected = closeness(run.outputs, float_outputs), closeness(own, float_outputs)
        missed = _missed(found, expected, len(samples), settings)
        if precision in ("int8-weights", "int4-weights"):
            missed += _missed_by_rounding(closeness(run.outputs, own), settings)
        rows.append(
            Quality(
                name=run.name,
                against_float=found,
                reference=expected,
                identical=identical_share(run.outputs, own),
                as_here=_equality(run.outputs, *here[run.format]) if run.native else None,
                accuracy=task(run.outputs),
                missed=tuple(missed),
                scores=sample_scores(run.outputs, float_outputs, labelled),
            )
        )
    return tuple(rows)


def _equality(outputs: Outputs, name: str, expected: Outputs) -> Equality:
    return Equality(
        name=name,
        identical=identical_share(outputs, expected),
        first_sample=first_difference(outputs, expected),
        max_abs_difference=closeness(outputs, expected).max_abs_error,
    )


def _missed(found: Closeness, reference: Closeness, samples: int, settings: ValidationSettings) -> list[str]:
    missed = []
    least = min(reference.sqnr_db - settings.max_sqnr_loss_db, settings.sufficient_sqnr_db)
    if found.sqnr_db < least:
        missed.append(f"SQNR {found.sqnr_db:.2f} dB is below {least:.2f} dB")
    if found.agreement is None or reference.agreement is None:
        return missed
    # One sample is the least that can be lost; of few samples it is more than the threshold.
    allowed = max(settings.max_agreement_loss_points / 100, 1 / samples)
    lost = reference.agreement - found.agreement
    if lost > allowed + 1e-9:
        missed.append(f"top-1 agreement is {lost * 100:.1f} points below the reference's")
    return missed


def _missed_by_rounding(against_reference: Closeness, settings: ValidationSettings) -> list[str]:
    """In float an engine may differ from the reference in the last bits alone, whatever the weights are."""
    found, least = against_reference.sqnr_db, settings.sufficient_sqnr_db
    return [f"SQNR against the reference {found:.2f} dB is below {least:.2f} dB"] if found < least else []


def _tuple(value: object) -> tuple[torch.Tensor, ...]:
    if isinstance(value, torch.Tensor):
        return (value,)
    from torch.utils import _pytree

    return tuple(_pytree.tree_leaves(value))
