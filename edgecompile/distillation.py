"""A short training of a changed program with the program that it was made from as its teacher.

The teacher's outputs on the calibration data are what is wanted (Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", arXiv:1503.02531): no labels are needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

import torch
from torch.export import ExportedProgram

from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample
from edgecompile.distillation_course import NOT_FINITE, TIME, Course
from edgecompile.distillation_lesson import Hint, Lesson
from edgecompile.progress import Progress

# The part of the steps over which the learning rate rises; then it falls as a cosine to 0.
_WARM_UP = 0.1
_BETAS = (0.9, 0.99)
# The last of the samples choose the best state: one of so many.
_HELD_OUT = 5
# Steps after which it is known how many the time allows.
_TRIAL = 10
# The held-out samples are looked at so many times.
_CHECKS = 10
# A training that is killed loses so much at most.
_SAVED_SECONDS = 30.0
# What a checkpoint holds of each parameter; the last three are Adam's.
_KEPT = ("value", "best", "step", "exp_avg", "exp_avg_sq")

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How long a training is, and how fast.

    Attributes:
        steps: At most so many.
        minutes: The most that they take.
        batch: Samples of a step.
        rate: What a step of Adam moves a parameter at most, about, times the parameter's own rate.
    """

    steps: int
    minutes: float
    batch: int
    rate: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameter:
    """What is trained.

    Attributes:
        value: Is changed in place.
        rate: Its learning rate, beside that of the settings.
    """

    value: torch.Tensor
    rate: float


class Student(Protocol[K]):
    """What is trained to give the teacher's outputs."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """What is trained, always in the same order."""

    @property
    def together(self) -> int:
        """How many samples may be joined along their first axes, for one run; 1 for none."""

    def constants(self) -> dict[K, torch.Tensor]:
        """Return what the parameters stand for, differentiably, once for all samples of a step."""

    def outputs(self, inputs: Sequence[torch.Tensor], constants: dict[K, torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs, and then what is beside each hint, differentiably.

        Args:
            inputs: The model's.
            constants: As `constants` gave them.
        """


def held_out(count: int) -> int:
    """Return how many of the last samples are not trained on, but choose the best state."""
    return max(1, count // _HELD_OUT)


def train(
    student: Student[K],
    teacher: ExportedProgram,
    samples: Sequence[Sample],
    settings: DistillationSettings,
    progress: Progress,
    *,
    hints: Sequence[Hint] = (),
    checkpoint: Checkpoint | None = None,
) -> Course:
    """Train a student, and leave the best state in its parameters.

    Args:
        student: What is trained.
        teacher: The float program whose outputs are wanted.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
        hints: The teacher's values that count as much as its outputs; not on the held-out samples.
        checkpoint: Where the state is kept until the end; a training that was interrupted there goes on.
    """
    if not student.parameters:
        return Course(steps=0, asked=settings.steps, best_step=0, first_error=0.0, best_error=0.0)
    lesson = Lesson(teacher, hints, samples)
    return _Training(student, lesson, settings, checkpoint).run(progress)


@dataclass(kw_only=True)
class _Place:
    """Where a training is; `Course` says what its attributes mean.

    Attributes:
        planned: The steps that the time allows.
        seconds: What the training took, when this was kept.
    """

    planned: int
    step: int = 0
    best_step: int = 0
    first_error: float = math.nan
    best_error: float = math.nan
    seconds: float = 0.0


class _Training(Generic[K]):
    def __init__(
        self,
        student: Student[K],
        lesson: Lesson,
        settings: DistillationSettings,
        checkpoint: Checkpoint | None,
    ) -> None:
        self._student, self._lesson = student, lesson
        self._settings, self._checkpoint = settings, checkpoint
        held = held_out(lesson.count)
        self._held = range(lesson.count - held, lesson.count)
        self._seen = range(lesson.count - held) or self._held
        self._values = [item.value.requires_grad_() for item in student.parameters]
        self._optimizer = torch.optim.Adam(
            [{"params": [item.value], "base": settings.rate * item.rate} for item in student.parameters],
            lr=settings.rate,
            betas=_BETAS,
        )
        self._place = _Place(planned=settings.steps)
        self._best = self._copies()
        self._started = 0.0

    def run(self, progress: Progress) -> Course:
        """Train, and leave the best state in the parameters."""
        self._lesson.prepare()
        if not self._resume():
            self._place.first_error = self._place.best_error = self._held_out_error()
        place = self._place
        progress.advance(place.step)
        self._started = time.monotonic() - place.seconds
        stopped = self._loop(progress)
        for value, best in zip(self._values, self._best, strict=True):
            value.requires_grad_(False).copy_(best)
        if self._checkpoint is not None:
            self._checkpoint.clear()
        return Course(
            steps=place.step,
            asked=self._settings.steps,
            best_step=place.best_step,
            first_error=place.first_error,
            best_error=place.best_error,
            stopped=stopped,
        )

    def _loop(self, progress: Progress) -> str:
        """Take steps, and return why they ended early."""
        place, stopped = self._place, ""
        batches = islice(self._batches(), place.step, None)
        saved = time.monotonic()
        while not stopped and place.best_error != 0:  # an error of 0 leaves nothing to learn
            try:
                stopped = self._look()
                if stopped or place.step >= place.planned:
                    break
                if time.monotonic() - saved >= _SAVED_SECONDS:
                    self._save(progress)
                    saved = time.monotonic()
                is_finite = self._gradients(next(batches))
            except BaseException:  # nothing was moved yet
                self._save(progress)
                raise
            if not is_finite:
                return NOT_FINITE
            self._move()
            progress.advance()
        return stopped

    def _look(self) -> str:
        """Say why the training ends before its last step, or ""; remember the best state now and then.

        Called once more after an interruption, it changes nothing.
        """
        place, steps = self._place, self._settings.steps
        spent, allowed = time.monotonic() - self._started, self._settings.minutes * 60
        if not place.step:
            return "" if math.isfinite(place.first_error) else NOT_FINITE
        if place.step == _TRIAL:  # The rate has to fall to 0, so fewer steps have another course.
            affordable = int(allowed / max(spent, 1e-9) * place.step)
            place.planned = min(steps, max(affordable, place.step))
        is_late = spent >= allowed
        if place.step % max(1, place.planned // _CHECKS) == 0 or place.step == place.planned or is_late:
            error = self._held_out_error()
            if not math.isfinite(error):
                return NOT_FINITE
            if error < place.best_error:
                self._best = self._copies()
                place.best_error, place.best_step = error, place.step
        is_early = place.step < steps
        return TIME if is_early and (is_late or place.step >= place.planned) else ""

    def _gradients(self, chosen: Sequence[int]) -> bool:
        """Compute the gradients of the loss on some samples; return whether all is finite."""
        with torch.enable_grad():
            constants = self._student.constants()
            leaves = {
                key: value.detach().requires_grad_(value.requires_grad) for key, value in constants.items()
            }
            for together in _parts(chosen, self._student.together):
                outputs, hints = self._losses(together, leaves)
                loss = (outputs + hints).sum() if self._lesson.hints else outputs.sum()
                if not math.isfinite(float(loss.detach())):
                    return False
                torch.autograd.backward(loss / len(chosen))
            used = [key for key, leaf in leaves.items() if leaf.grad is not None]
            self._optimizer.zero_grad()
            torch.autograd.backward([constants[key] for key in used], [leaves[key].grad for key in used])
        return all(bool(value.grad.isfinite().all()) for value in self._values if value.grad is not None)

    def _move(self) -> None:
        """Move the parameters."""
        done = self._place.step / self._place.planned
        rate = min(1.0, (done + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * rate
        self._optimizer.step()
        self._place.step += 1

    def _losses(
        self, chosen: Sequence[int], constants: dict[K, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the squared errors of outputs and of hints as shares of their power, (samples,) each."""
        wanted = self._lesson.wanted(chosen)
        found = self._student.outputs(self._lesson.inputs(chosen), constants)
        pairs, outputs = list(zip(found, wanted, strict=True)), len(wanted) - len(self._lesson.hints)
        return _error(pairs[:outputs], len(chosen)), _error(pairs[outputs:], len(chosen))

    def _held_out_error(self) -> float:
        losses: list[float] = []
        with torch.no_grad():
            constants = self._student.constants()
            for together in _parts(self._held, self._student.together):
                losses += self._losses(together, constants)[0].tolist()
        return sum(losses) / len(losses)

    def _batches(self) -> Iterator[list[int]]:
        """Yield the samples of each step, in an order that is drawn anew when all were seen."""
        generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
        order: list[int] = []
        while True:
            while len(order) < self._settings.batch:
                order += torch.randperm(len(self._seen), generator=generator).tolist()
            yield [self._seen[index] for index in order[: self._settings.batch]]
            order = order[self._settings.batch :]

    def _copies(self) -> list[torch.Tensor]:
        return [value.detach().clone() for value in self._values]

    # --- the state ------------------------------------------------------------------------------

    def _save(self, progress: Progress) -> None:
        """Keep the state, where that is possible."""
        if self._checkpoint is None:
            return
        tensors: dict[str, torch.Tensor] = {}
        for index, value in enumerate(self._values):
            own = {"value": value.detach(), "best": self._best[index], **self._optimizer.state[value]}
            tensors |= {f"{name}.{index}": tensor for name, tensor in own.items()}
        self._place.seconds = time.monotonic() - self._started
        try:
            self._checkpoint.save(tensors, vars(self._place))
        except OSError as error:
            where, self._checkpoint = self._checkpoint.path, None
            progress.note(f"the training's state cannot be kept ({error.strerror or error}: {where})")

    def _resume(self) -> bool:
        """Take up the state that an interrupted training left; return whether there is one."""
        kept = None if self._checkpoint is None else self._checkpoint.load()
        if kept is None:
            return False
        tensors, facts = kept
        own = [
            {name: tensors[f"{name}.{index}"].clone() for name in _KEPT if f"{name}.{index}" in tensors}
            for index in range(len(self._values))
        ]
        for value, state in zip(self._values, own, strict=True):
            value.detach().copy_(state.pop("value"))
        self._best = [state.pop("best") for state in own]
        for value, state in zip(self._values, own, strict=True):
            self._optimizer.state[value].update(state)
        self._place = _Place(**facts)
        return True


def _parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def _error(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], count: int) -> torch.Tensor:
    """Return the squared error of values as a share of the power of those wanted, (count,); their mean."""
    total = torch.zeros(count)
    for own, wanted in pairs:
        if own.is_floating_point():
            difference, power = (_sums(value, count) for value in (own - wanted, wanted))
            total = total + difference / power.clamp_min(1e-12) / len(pairs)
    return total


def _sums(value: torch.Tensor, count: int) -> torch.Tensor:
    """Return the sum of squares for each of several samples, (count,)."""
    return value.square().reshape(count, -1).sum(1)
