"""How a distillation went, and what the model's author should know of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgecompile.finding import Finding

# Why a training ended early.
NOT_FINITE, TIME = "not finite", "time"


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a training went.

    Attributes:
        steps: Those that were taken.
        asked: Those that were asked for.
        best_step: After which the best state was seen; 0 for the program as it was.
        first_error: The squared error of the outputs on the held-out samples, a share of the outputs' power.
        best_error: Of the best state.
        stopped: Why it ended early, "not finite" or "time"; else "".
    """

    steps: int
    asked: int
    best_step: int
    first_error: float
    best_error: float
    stopped: str = ""

    @property
    def gain_db(self) -> float:
        """By how much the error fell."""
        if not 0 < self.best_error < self.first_error < math.inf:
            return 0.0
        return 10 * math.log10(self.first_error / self.best_error)


def course_findings(
    course: Course,
    *,
    what: str,
    steps: str = "distillation_steps",
    minutes: str = "distillation_minutes",
    rate: str = "distillation_rate",
) -> Iterator[Finding]:
    """Yield what the model's author should know of a training.

    Args:
        course: How it went.
        what: Which training it was, in the report.
        steps: The name of the setting.
        minutes: The same.
        rate: The same.
    """
    if course.stopped == NOT_FINITE:
        yield Finding(
            code="distillation-not-finite",
            what=what,
            text=f"after {course.steps} steps the loss or its gradient was not finite: the best state up to "
            f"there was kept, that of step {course.best_step}; lower `{rate}`",
        )
    if course.stopped == TIME:
        yield Finding(
            code="distillation-time-up",
            what=what,
            text=f"the time was up after {course.steps} of {course.asked} steps: another run "
            f"may give other weights; raise `{minutes}`, or lower `{steps}`",
        )
    if course.stopped != NOT_FINITE and course.best_step == 0:
        yield Finding(
            code="distillation-without-gain",
            what=what,
            text="no state was better than the first on held-out samples: the program is as it was; more "
            f"calibration samples or a lower `{rate}` may help",
        )
