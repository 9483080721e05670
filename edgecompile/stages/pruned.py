"""The captured model without some of its channels: the choice, the surgery with its proof, the recovery.

The choice, the fitted program and the trained one are kept each by itself, so that an interrupted build goes
on, and one that asks for more recovery does not choose again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, Sample, spread
from edgecompile.program import CapturedProgram, Declined, step_record
from edgecompile.pruning.pruning_report import PruningReport, pruning_report_from_dict
from edgecompile.stage_cache import STATE, HashedFile, Result, StageCache
from edgecompile.stages.captured import Captured
from edgecompile.stages.quality import float_outputs
from edgecompile.stages.reads import tools
from edgecompile.stages.recovery import labels_of, recovery_row, top1

if TYPE_CHECKING:
    import torch

    from edgecompile.compare import Outputs
    from edgecompile.pruning.pruned_program import PrunedProgram
    from edgecompile.settings import BuildSettings
    from edgecompile.target import PruningSettings, Target


class KeptChoice:
    """Keeps which units stay."""

    name = "choose-channels"

    def write(self, value: torch.Tensor, file: HashedFile) -> dict[str, Any]:
        """Write one truth a unit."""
        from edgecompile.tensor_file import write_tensors

        write_tensors(file, {"keep": value})
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> torch.Tensor:
        """Return them."""
        from edgecompile.tensor_file import read_tensors

        return read_tensors(path)[0]["keep"]

    def can_keep(self, value: torch.Tensor) -> bool:
        """They can always be kept."""
        return True


class KeptPruned(Captured):
    """Keeps a pruned program as a captured one is."""

    name = "prune"


class KeptPruningReport:
    """Keeps what was removed and what is left."""

    name = "pruning-report"

    def write(self, value: PruningReport, file: HashedFile) -> dict[str, Any]:
        """Write it as JSON."""
        file.write(json.dumps(value.to_dict(), allow_nan=False).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> PruningReport:
        """Return it."""
        return pruning_report_from_dict(json.loads(path.read_bytes()))

    def can_keep(self, value: PruningReport) -> bool:
        """It can always be kept."""
        return True


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A model as the passes of a target take it.

    Attributes:
        program: In float; the captured one where nothing is pruned.
        floats: What it gives for the data that quality is measured on.
        originals: What the captured one gives.
        report: What was pruned; None where nothing is.
    """

    program: Result[CapturedProgram]
    floats: Result[Outputs]
    originals: Result[Outputs]
    report: Result[PruningReport] | None


def pruned_program(
    cache: StageCache,
    captured: Result[CapturedProgram],
    *,
    calibration: Result[Dataset] | None,
    evaluation: Result[Dataset],
    target: Target,
    settings: BuildSettings,
) -> Pruned:
    """Return the captured program as a build prunes it.

    Raises:
        NothingToPruneError: None of its channels can be removed.
        PruningBrokeProgramError: The surgery is wrong: a bug of ours.
        PruningTargetNotMetError: Not as much can be removed as is asked for.
        UnknownLayerError: A rule is for no layer.
    """
    originals = float_outputs(cache, captured, evaluation)
    if settings.prune is None:
        return Pruned(program=captured, floats=originals, originals=originals, report=None)
    stages = _Stages(cache, captured, calibration, settings.prune, target.pruning)
    programs = stages.programs()
    outputs = {step: float_outputs(cache, program, evaluation) for step, program in programs.items()}
    report = _report(cache, stages, evaluation, originals, outputs, goldens=target.validation.goldens)
    last = list(programs)[-1]
    if cache.planned is None:
        report.value()  # has the proof, without which nothing is made of the program
    stages.drop()
    for step in list(programs)[:-1]:
        programs[step].drop()  # only the last is built
    return Pruned(program=programs[last], floats=outputs[last], originals=originals, report=report)


class _Stages:
    """The programs of a build's pruning, each made from the one before."""

    def __init__(
        self,
        cache: StageCache,
        captured: Result[CapturedProgram],
        calibration: Result[Dataset] | None,
        share: float,
        settings: PruningSettings,
    ) -> None:
        self._cache, self._captured, self._calibration = cache, captured, calibration
        self.share, self.settings = share, settings
        data = "" if calibration is None else calibration.digest
        chosen = {
            name: value
            for name, value in dataclasses.asdict(settings).items()
            if not name.startswith("distillation")
        }
        self.key = digest("choose-channels", captured.digest, data, str(share), json.dumps(chosen), tools())
        self._keep = cache.result(KeptChoice(), self.key, self._choose, "choose channels")
        self._removed: PrunedProgram | None = None

    def programs(self) -> dict[str, Result[CapturedProgram]]:
        """Return the program after each step, by the step's name in the report."""
        settings = self.settings
        found = {"removed": self._kept(self._keep.key, "removed", self._remove)}
        if settings.least_squares:
            key = digest("least squares", self._keep.key)
            found["least squares"] = self._kept(
                key, "least squares", lambda: self._fit(found["removed"].value())
            )
        if settings.distillation_steps:
            before = list(found.values())[-1]
            own = [str(value) for name, value in dataclasses.asdict(settings).items() if "distill" in name]
            key = digest("distilled", before.key, *own)
            found["distilled"] = self._kept(key, "distill", lambda: self._distil(before.value(), key))
        return found

    def _kept(self, key: str, label: str, make: Callable[[], CapturedProgram]) -> Result[CapturedProgram]:
        return self._cache.result(KeptPruned(), key, make, label)

    def removed(self) -> PrunedProgram:
        """Return the program after the surgery alone, beside the whole one."""
        if self._removed is None:
            from edgecompile.pruning.channel_groups import find_groups
            from edgecompile.pruning.remove_channels import remove_channels

            whole = self._captured.value().exported
            self._removed = remove_channels(whole, find_groups(whole), self._keep.value())
        return self._removed

    def drop(self) -> None:
        """Let the programs go that only this needs."""
        self._removed = None

    def _samples(self) -> list[Sample]:
        if self._calibration is None:
            return []
        return spread(self._calibration.value().samples, self.settings.samples)

    def _choose(self) -> torch.Tensor:
        from edgecompile.pruning.choose_channels import choose_channels

        program = self._captured.value().exported
        chosen = choose_channels(program, self.share, self._samples(), self.settings, self._cache.progress)
        return chosen.keep

    def _remove(self) -> CapturedProgram:
        from edgecompile.pruning.described_groups import declined_groups

        started, captured = time.perf_counter(), self._captured.value()
        removed = self.removed()
        record = step_record(
            "prune",
            started,
            captured.exported,
            removed.exported,
            rewrites=int((~removed.keep).sum()),
            declined=declined_groups(removed.groups),
        )
        return replace(captured, exported=removed.exported, steps=(*captured.steps, record))

    def _fit(self, program: CapturedProgram) -> CapturedProgram:
        started = time.perf_counter()
        fitted = self._fitted(self._samples()).exported
        record = step_record("least squares", started, program.exported, fitted, rewrites=0)
        return replace(program, exported=fitted, steps=(*program.steps, record))

    def _fitted(self, samples: Sequence[Sample]) -> PrunedProgram:
        from edgecompile.pruning.least_squares import fit_layers

        return fit_layers(self.removed(), samples, self._cache.progress)

    def _distil(self, program: CapturedProgram, key: str) -> CapturedProgram:
        from edgecompile.checkpoint import Checkpoint
        from edgecompile.distillation import held_out
        from edgecompile.pruning.distill import distill_pruned

        started, cache = time.perf_counter(), self._cache
        # The next build goes on where this one was interrupted.
        checkpoint = (
            Checkpoint(cache.folder / KeptPruned.name / f"{key}{STATE}", key) if cache.writable else None
        )
        # It begins with what the held-out samples have not been fitted to: they are to choose the best state.
        samples = self._samples()
        seen = samples[: -held_out(len(samples))] or samples
        first = self._fitted(seen) if self.settings.least_squares else self.removed()
        trained, findings = distill_pruned(first, samples, self.settings, cache.progress, checkpoint)
        exported = program.exported if trained is first else trained.exported
        for finding in findings:
            cache.progress.note(finding.text)
        record = step_record(
            "distill",
            started,
            program.exported,
            exported,
            rewrites=0,
            declined=tuple(Declined(what=row.what, where=row.where, reason=row.text) for row in findings),
        )
        return replace(program, exported=exported, steps=(*program.steps, record))


def _report(
    cache: StageCache,
    stages: _Stages,
    evaluation: Result[Dataset],
    originals: Result[Outputs],
    outputs: dict[str, Result[Outputs]],
    *,
    goldens: int,
) -> Result[PruningReport]:
    def make() -> PruningReport:
        from edgecompile.pruning.described_groups import pruning_report
        from edgecompile.pruning.zeroed_channels import prove

        removed, samples = stages.removed(), evaluation.value().samples
        cache.progress.start("prove the pruning")
        proof = prove(removed, [sample.inputs for sample in spread(samples, goldens)])
        cache.progress.finish(f"{proof.samples} samples, greatest error {proof.greatest_error:.1e}")
        known = labels_of(evaluation.value())
        rows = tuple(
            recovery_row(step, own.value(), originals.value(), known) for step, own in outputs.items()
        )
        return replace(
            pruning_report(removed, stages.share, stages.settings, proof),
            accuracy=top1(originals.value(), known),
            recovery=rows,
        )

    key = digest(
        "pruning-report", stages.key, evaluation.digest, *(own.key for own in outputs.values()), str(goldens)
    )
    return cache.result(KeptPruningReport(), key, make, "prove the pruning")
