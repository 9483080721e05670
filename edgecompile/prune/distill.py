"""The recovery of a pruned program: a short training with the whole one as its teacher, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch.export import ExportedProgram

from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample
from edgecompile.distillation import DistillationSettings, course_findings, train
from edgecompile.finding import Finding
from edgecompile.progress import Progress
from edgecompile.prune.float_student import FloatStudent


class RecoverySettings(Protocol):
    """What is read of the settings of pruning."""

    @property
    def distillation_steps(self) -> int:
        """At most so many; 0 for none."""

    @property
    def distillation_minutes(self) -> float:
        """The most that they take."""

    @property
    def distillation_batch(self) -> int:
        """Samples of a step."""

    @property
    def distillation_rate(self) -> float:
        """By what share of its magnitude a step moves a parameter at most, about."""


def distill_pruned(
    pruned: ExportedProgram,
    whole: ExportedProgram,
    samples: Sequence[Sample],
    settings: RecoverySettings,
    progress: Progress,
    *,
    checkpoint: Checkpoint | None = None,
) -> tuple[ExportedProgram, tuple[Finding, ...]]:
    """Return the pruned program with trained parameters, or as it was if none are better, and what was found.

    Args:
        pruned: Without some channels; its batch norms keep their statistics.
        whole: The program that it was made from.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
        checkpoint: Where the state is kept until the end; a training that was interrupted there goes on.
    """
    if not settings.distillation_steps:
        return pruned, ()
    progress.start("recover", settings.distillation_steps)
    student = FloatStudent(pruned, samples)
    asked = DistillationSettings(
        steps=settings.distillation_steps,
        minutes=settings.distillation_minutes,
        batch=settings.distillation_batch,
        rate=settings.distillation_rate,
    )
    course = train(student, whole, samples, asked, progress, checkpoint=checkpoint)
    progress.finish(f"{course.steps} steps, {course.gain_db:.2f} dB better on held-out samples")
    findings = tuple(course_findings(course, what="recovery after pruning"))
    return (student.written() if course.best_step else pruned), findings
