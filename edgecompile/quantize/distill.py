"""A short training of the quantized program with the float program as its teacher; no labels are needed.

The float program's outputs on the calibration data are what is wanted (Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", arXiv:1503.02531; for quantized students Mishra & Marr 2018, "Apprentice",
arXiv:1711.05852). The student rounds as the integer program does, so its weights, biases and scales learn to
live with that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.finding import Finding
from edgecompile.graph_edit import output_nodes
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.fake_quantized import FakeQuantized, Role
from edgecompile.quantize.layers import QuantizationParameters
from edgecompile.quantize.node_values import all_values
from edgecompile.target import QuantizationSettings

# Learning rates beside that of the weights.
_RATES: dict[Role, float] = {"weight": 1.0, "bias": 1.0, "scale": 0.5}
# The part of the steps over which the learning rate rises; then it falls as a cosine to 0.
_WARM_UP = 0.1
_BETAS = (0.9, 0.99)
# The last of the samples choose the best state: one of so many.
_HELD_OUT = 5
# Steps after which it is known how many the time allows.
_TRIAL = 10
# The held-out samples are looked at so many times.
_CHECKS = 10


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How a training went.

    Attributes:
        steps: Those that were taken.
        best_step: After which the best state was seen; 0 for the program as it was.
        first_error: The squared error of the outputs on the held-out samples, a share of the outputs' power.
        best_error: Of the best state.
        stopped: Why it ended early, or "".
    """

    steps: int
    best_step: int
    first_error: float
    best_error: float
    stopped: str = ""


def distill(
    program: QuantizedProgram,
    in_float: CapturedProgram,
    samples: Sequence[Sample],
    settings: QuantizationSettings,
    progress: Progress,
) -> QuantizedProgram:
    """Return the program with integers, biases and scales that were trained, or as it was if none are better.

    Args:
        program: After all corrections.
        in_float: The program that it was made from.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
    """
    if not settings.distillation_steps:
        return program
    progress.start("distill", settings.distillation_steps)
    # A scale that is a power of two has no neighbours to learn from.
    student = FakeQuantized(
        program.exported,
        limit=2 ** (settings.weight_bits - 1) - 1,
        learn_scales=not settings.power_of_two_scales,
    )
    training = _Training(student, in_float.exported, samples, settings)
    course = training.run(progress)
    gain = 10 * math.log10(course.first_error / course.best_error) if course.best_error > 0 else 0.0
    progress.finish(f"{course.steps} steps, {gain:.2f} dB better on held-out samples")
    findings = (*program.findings, *_findings(course, settings))
    if course.best_step == 0:
        return replace(program, findings=findings)
    return replace(program, exported=student.written(), findings=findings)


class _Training:
    def __init__(
        self,
        student: FakeQuantized,
        teacher: ExportedProgram,
        samples: Sequence[Sample],
        settings: QuantizationSettings,
    ) -> None:
        self._student, self._teacher, self._settings = student, teacher, settings
        held = max(1, len(samples) // _HELD_OUT)
        self._held = samples[-held:]
        self._seen = samples[:-held] or samples
        self._generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
        self._order: list[int] = []
        self._parameters = student.parameters
        self._optimizer = torch.optim.Adam(
            [
                {
                    "params": [item.value.requires_grad_()],
                    "base": settings.distillation_rate * _RATES[item.role],
                }
                for item in self._parameters
            ],
            lr=settings.distillation_rate,
            betas=_BETAS,
        )

    def run(self, progress: Progress) -> _Course:
        """Train, and leave the best state in the parameters."""
        steps = self._settings.distillation_steps
        started = time.monotonic()
        ends = started + self._settings.distillation_minutes * 60
        first = best = self._held_out_error()
        best_step, best_state = 0, self._state()
        step, stopped = 0, "" if math.isfinite(first) else "not finite"
        planned = steps
        while step < planned and not stopped:
            if not self._step(step / planned):
                stopped = "not finite"
                break
            step += 1
            progress.advance()
            now = time.monotonic()
            if step == _TRIAL:  # The rate has to fall to 0, so fewer steps have another course.
                affordable = int((ends - started) / max(now - started, 1e-9) * step)
                planned = min(steps, max(affordable, step))
            is_late = now >= ends
            if (is_late and step < steps) or planned <= step < steps:
                stopped = "time"
            if step % max(1, steps // _CHECKS) == 0 or step == planned or is_late:
                error = self._held_out_error()
                if not math.isfinite(error):
                    stopped = "not finite"
                elif error < best:
                    best, best_step, best_state = error, step, self._state()
        for item, value in zip(self._parameters, best_state, strict=True):
            item.value.requires_grad_(False).copy_(value)
        return _Course(steps=step, best_step=best_step, first_error=first, best_error=best, stopped=stopped)

    def _step(self, progress: float) -> bool:
        """Take one step; return whether its loss was finite, without which nothing changes."""
        rate = min(1.0, (progress + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * rate
        with torch.enable_grad():
            constants = self._student.constants()
            leaves = {
                key: value.detach().requires_grad_(value.requires_grad) for key, value in constants.items()
            }
            chosen = self._draw(self._settings.distillation_batch)
            for sample in chosen:
                loss = self._loss(sample, leaves)
                if not math.isfinite(float(loss.detach())):
                    return False
                torch.autograd.backward(loss / len(chosen))
            used = [key for key, leaf in leaves.items() if leaf.grad is not None]
            self._optimizer.zero_grad()
            torch.autograd.backward([constants[key] for key in used], [leaves[key].grad for key in used])
        gradients = (item.value.grad for item in self._parameters if item.value.grad is not None)
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return False
        self._optimizer.step()
        return True

    def _loss(
        self, sample: Sample, constants: dict[Node | QuantizationParameters, torch.Tensor]
    ) -> torch.Tensor:
        """Return the squared error of the outputs, as a share of their power; the mean over the outputs."""
        with torch.no_grad():
            wanted = all_values(self._teacher, sample.inputs)
        found = self._student.run(sample.inputs, constants)
        total = torch.zeros(())
        for own, node in zip(found.values(), output_nodes(self._teacher.graph), strict=True):
            if own.is_floating_point():
                difference, power = (value.square().sum() for value in (own - wanted[node], wanted[node]))
                total = total + difference / power.clamp_min(1e-12) / len(found)
        return total

    def _held_out_error(self) -> float:
        with torch.no_grad():
            constants = self._student.constants()
            losses = [float(self._loss(sample, constants)) for sample in self._held]
        return sum(losses) / len(losses)

    def _draw(self, count: int) -> list[Sample]:
        """Return the next samples of an order that is drawn anew when all were seen."""
        while len(self._order) < count:
            self._order += torch.randperm(len(self._seen), generator=self._generator).tolist()
        chosen, self._order = self._order[:count], self._order[count:]
        return [self._seen[index] for index in chosen]

    def _state(self) -> list[torch.Tensor]:
        return [item.value.detach().clone() for item in self._parameters]


def _findings(course: _Course, settings: QuantizationSettings) -> Iterator[Finding]:
    """Yield what the model's author should know of a training."""
    if course.stopped == "not finite":
        yield Finding(
            code="distillation-not-finite",
            what="distillation",
            text=f"after {course.steps} steps the loss or its gradient was not finite: the best state up to "
            f"there was kept, that of step {course.best_step}; lower `distillation_rate`",
        )
    if course.stopped == "time":
        yield Finding(
            code="distillation-time-up",
            what="distillation",
            text=f"the time was up after {course.steps} of {settings.distillation_steps} steps: another run "
            "may give other weights; raise `distillation_minutes`, or lower `distillation_steps`",
        )
    if not course.stopped and course.best_step == 0:
        yield Finding(
            code="distillation-without-gain",
            what="distillation",
            text="no state was better than the first on held-out samples: the program is as it was; more "
            "calibration samples or a lower `distillation_rate` may help",
        )
