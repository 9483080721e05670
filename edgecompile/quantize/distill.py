"""A short training of the quantized program with the float program as its teacher; no labels are needed.

For quantized students Mishra & Marr 2018, "Apprentice", arXiv:1711.05852. The student rounds as the integer
program does, so its weights, biases and scales learn to live with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample
from edgecompile.distillation import DistillationSettings, train
from edgecompile.distillation_course import course_findings
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.fake_quantized import FakeQuantized
from edgecompile.quantize.zero_weights import zero_weights
from edgecompile.target import QuantizationSettings


def distill(
    program: QuantizedProgram,
    in_float: CapturedProgram,
    samples: Sequence[Sample],
    settings: QuantizationSettings,
    progress: Progress,
    *,
    checkpoint: Checkpoint | None = None,
) -> QuantizedProgram:
    """Return the program with integers, biases and scales that were trained, or as it was if none are better.

    Args:
        program: After all corrections.
        in_float: The program that it was made from.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
        checkpoint: Where the state is kept until the end; a training that was interrupted there goes on.
    """
    if not settings.distillation_steps:
        return program
    progress.start("distill", settings.distillation_steps)
    # A scale that is a power of two has no neighbours to learn from.
    student = FakeQuantized(
        program.exported,
        limit=2 ** (settings.weight_bits - 1) - 1,
        learn_scales=not settings.power_of_two_scales,
        zeros=zero_weights(program.exported, in_float.exported),
    )
    asked = DistillationSettings(
        steps=settings.distillation_steps,
        minutes=settings.distillation_minutes,
        batch=settings.distillation_batch,
        rate=settings.distillation_rate,
    )
    course = train(student, in_float.exported, samples, asked, progress, checkpoint=checkpoint)
    progress.finish(f"{course.steps} steps, {course.gain_db:.2f} dB better on held-out samples")
    findings = (*program.findings, *course_findings(course, what="distillation"))
    if course.best_step == 0:
        return replace(program, findings=findings)
    return replace(program, exported=student.written(), findings=findings)
