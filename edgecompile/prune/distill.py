"""The recovery of a pruned program: a short training with the whole one as its teacher, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample, spread
from edgecompile.distillation import DistillationSettings, Hint, course_findings, train
from edgecompile.finding import Finding
from edgecompile.graph_edit import operand, shape_of
from edgecompile.progress import Progress
from edgecompile.prune.channel_groups import ChannelGroups
from edgecompile.prune.float_student import FloatStudent
from edgecompile.prune.layer_inputs import LAYERS

# Values inside the program that are trained toward those of the whole one.
_HINTS = 8
# They are of the program's first part: what is nearer to the outputs has to become another one where much was
# removed, and asking for it leaves a greater error at the outputs.
_DEPTH = 2 / 3


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
    groups: ChannelGroups,
    keep: torch.Tensor,
    samples: Sequence[Sample],
    *,
    settings: RecoverySettings,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> tuple[ExportedProgram, tuple[Finding, ...]]:
    """Return the pruned program with trained parameters, or as it was if none are better, and what was found.

    Args:
        pruned: Without some channels; its batch norms keep their statistics.
        whole: The program that it was made from.
        groups: The groups of that.
        keep: Of each of its units, whether it stays, (units,), bool.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
        checkpoint: Where the state is kept until the end; a training that was interrupted there goes on.
    """
    if not settings.distillation_steps:
        return pruned, ()
    progress.start("recover", settings.distillation_steps)
    hints = _hints(pruned, whole, groups, keep)
    student = FloatStudent(pruned, samples, [node for node, _ in hints])
    asked = DistillationSettings(
        steps=settings.distillation_steps,
        minutes=settings.distillation_minutes,
        batch=settings.distillation_batch,
        rate=settings.distillation_rate,
    )
    course = train(
        student, whole, samples, asked, progress, hints=[hint for _, hint in hints], checkpoint=checkpoint
    )
    progress.finish(f"{course.steps} steps, {course.gain_db:.2f} dB better on held-out samples")
    findings = tuple(course_findings(course, what="recovery after pruning"))
    return (student.written() if course.best_step else pruned), findings


def _hints(
    pruned: ExportedProgram, whole: ExportedProgram, groups: ChannelGroups, keep: torch.Tensor
) -> list[tuple[Node, Hint]]:
    """Return a few values that layers read, evenly spaced, and those of the whole program beside them."""
    own = {node.name: node for node in pruned.graph.nodes if node.op == "call_function"}
    read = dict.fromkeys(operand(node) for node in whole.graph.nodes if node.target in LAYERS)
    found = []
    for node in read:
        labels = groups.of_values.get(node)
        hint = Hint(node=node, kept={} if labels is None else labels.kept(keep))
        if node.name in own and _is_beside(own[node.name], hint):
            found.append((own[node.name], hint))
    return spread(found[: round(len(found) * _DEPTH)], _HINTS)


def _is_beside(own: Node, hint: Hint) -> bool:
    """Tell whether a value has the shape of a hint; sizes that are dynamic are taken for equal."""
    whole = shape_of(hint.node)
    wanted = [len(hint.kept[axis]) if axis in hint.kept else size for axis, size in enumerate(whole)]
    sizes = list(zip(shape_of(own), wanted, strict=False))
    static = [pair for pair in sizes if all(isinstance(size, int) for size in pair)]
    return len(shape_of(own)) == len(wanted) and all(one == other for one, other in static)
