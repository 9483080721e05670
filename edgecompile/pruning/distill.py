"""The recovery of a pruned program: a short training with the whole one as its teacher, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.fx import Node

from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample, spread
from edgecompile.distillation import DistillationSettings, train
from edgecompile.distillation_course import course_findings
from edgecompile.distillation_lesson import Hint
from edgecompile.finding import Finding
from edgecompile.graph_edit import operand, shape_of
from edgecompile.progress import Progress
from edgecompile.pruning.float_student import FloatStudent
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.target import PruningSettings

# Values inside the program that are trained toward those of the whole one.
_HINTS = 8
# They are of the program's first part: what is nearer to the outputs has to become another one where much was
# removed, and asking for it leaves a greater error at the outputs.
_DEPTH = 2 / 3


def distill_pruned(
    pruned: PrunedProgram,
    samples: Sequence[Sample],
    settings: PruningSettings,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> tuple[PrunedProgram, tuple[Finding, ...]]:
    """Return the pruned program with trained parameters, or as it was if none are better, and what was found.

    Args:
        pruned: The program; its batch norms keep their statistics.
        samples: Calibration data; the last fifth is not trained on, but chooses the best state.
        settings: Say how long, and how fast.
        progress: Is told of each step.
        checkpoint: Where the state is kept until the end; a training that was interrupted there goes on.
    """
    if not settings.distillation_steps:
        return pruned, ()
    progress.start("recover", settings.distillation_steps)
    hints = _hints(pruned)
    student = FloatStudent(pruned.exported, samples, [node for node, _ in hints])
    asked = DistillationSettings(
        steps=settings.distillation_steps,
        minutes=settings.distillation_minutes,
        batch=settings.distillation_batch,
        rate=settings.distillation_rate,
    )
    towards = [hint for _, hint in hints]
    course = train(student, pruned.whole, samples, asked, progress, hints=towards, checkpoint=checkpoint)
    progress.finish(f"{course.steps} steps, {course.gain_db:.2f} dB better on held-out samples")
    findings = tuple(course_findings(course, what="recovery after pruning"))
    return (replace(pruned, exported=student.written()) if course.best_step else pruned), findings


def _hints(pruned: PrunedProgram) -> list[tuple[Node, Hint]]:
    """Return a few values that layers read, evenly spaced, and those of the whole program beside them."""
    own = {node.name: node for node in pruned.exported.graph.nodes if node.op == "call_function"}
    read = dict.fromkeys(operand(node) for node in pruned.whole.graph.nodes if node.target in LAYERS)
    found = []
    for node in read:
        labels = pruned.groups.of_values.get(node)
        hint = Hint(node=node, kept={} if labels is None else labels.kept(pruned.keep))
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
