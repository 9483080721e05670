"""The float program with weights that are zero: which ones, and what the other weights make up for.

Both programs are kept, so that the report can tell what the second brings.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.program import CapturedProgram, QuantizedProgram, step_record
from edgecompile.pruning.sparsity_report import SparseProgram, sparse_program_from_dict
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.captured import Captured
from edgecompile.stages.quality import float_outputs
from edgecompile.stages.reads import tools
from edgecompile.stages.recovery import labels_of, recovery_row, top1

if TYPE_CHECKING:
    from edgecompile.compare import Outputs
    from edgecompile.pruning.sparsify import SparseLayers
    from edgecompile.pruning.sparsity import Sparsity
    from edgecompile.settings import BuildSettings
    from edgecompile.stages.pruned import Pruned
    from edgecompile.target import PruningSettings, Target


class KeptSparse(Captured):
    """Keeps a program with zeros as a captured one is."""

    name = "sparsify"


class KeptSparseProgram:
    """Keeps what was zeroed and how good the program is then."""

    name = "sparsity-report"

    def write(self, value: SparseProgram, file: HashedFile) -> dict[str, Any]:
        """Write it as JSON."""
        file.write(json.dumps(dataclasses.asdict(value), allow_nan=False).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> SparseProgram:
        """Return it."""
        return sparse_program_from_dict(json.loads(path.read_bytes()))

    def can_keep(self, value: SparseProgram) -> bool:
        """It can always be kept."""
        return True


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """A model as the passes of a target take it.

    Attributes:
        program: In float; the one before where nothing is zeroed.
        floats: What it gives for the data that quality is measured on.
        report: What was zeroed; None where nothing is.
    """

    program: Result[CapturedProgram]
    floats: Result[Outputs]
    report: Result[SparseProgram] | None


def sparse_program(
    cache: StageCache,
    pruned: Pruned,
    *,
    calibration: Result[Dataset] | None,
    evaluation: Result[Dataset],
    target: Target,
    settings: BuildSettings,
) -> Sparse:
    """Return the pruned program with as many zeros as a build asks for.

    Raises:
        NothingToPruneError: No weight can become zero.
        UnknownLayerError: A rule is for no layer.
    """
    if settings.sparsity is None:
        return Sparse(program=pruned.program, floats=pruned.floats, report=None)
    stages = _Stages(cache, pruned.program, calibration, settings.sparsity, target.pruning)
    programs = stages.programs()
    outputs = {step: float_outputs(cache, program, evaluation) for step, program in programs.items()}
    last = list(programs)[-1]

    def report() -> SparseProgram:
        from edgecompile.pruning.count_zeros import zero_rows

        labels, originals = labels_of(evaluation.value()), pruned.originals.value()
        return SparseProgram(
            wanted=stages.sparsity.text,
            share=stages.sparsity.share,
            accuracy=top1(originals, labels),
            recovery=tuple(
                recovery_row(step, own.value(), originals, labels) for step, own in outputs.items()
            ),
            layers=zero_rows(stages.layers(), programs[last].value().exported),
        )

    key = digest("sparsity-report", pruned.originals.digest, *(own.digest for own in outputs.values()))
    result = cache.result(KeptSparseProgram(), digest(key, programs[last].key), report, "zeros in float")
    return Sparse(program=programs[last], floats=outputs[last], report=result)


def zeros_found(
    cache: StageCache,
    sparse: Result[SparseProgram],
    *,
    program: Result[QuantizedProgram],
    in_float: Result[CapturedProgram],
) -> Result[SparseProgram]:
    """Return the same with the zeros of the program that the artifacts are made from.

    Args:
        cache: Keeps it.
        sparse: What was zeroed.
        program: Quantized, or not.
        in_float: The program that it was made from.
    """

    def make() -> SparseProgram:
        from edgecompile.pruning.count_zeros import with_found

        value = sparse.value()
        rows = with_found(value.layers, program.value().exported, in_float.value().exported)
        return replace(value, layers=rows)

    key = digest("zeros found", sparse.digest, program.digest, in_float.digest)
    return cache.result(KeptSparseProgram(), key, make, "count zeros")


class _Stages:
    """The programs with zeros, the second made from the first."""

    def __init__(
        self,
        cache: StageCache,
        before: Result[CapturedProgram],
        calibration: Result[Dataset] | None,
        sparsity: Sparsity,
        settings: PruningSettings,
    ) -> None:
        self._cache, self._before, self._calibration = cache, before, calibration
        self.sparsity, self._settings = sparsity, settings

    def programs(self) -> dict[str, Result[CapturedProgram]]:
        """Return the program after each step, by the step's name in the report."""
        settings, calibration = self._settings, self._calibration
        key = digest("zeroed", self._before.digest, self.sparsity.text, json.dumps(settings.exclude), tools())
        zeroed = self._cache.result(KeptSparse(), key, self._zero, "zero weights")
        if calibration is None:
            return {"zeroed": zeroed}
        data = calibration
        own = digest("compensated", key, data.digest, str(settings.samples))
        compensated = self._cache.result(
            KeptSparse(), own, lambda: self._compensate(zeroed.value(), data), "make up for zeros"
        )
        return {"zeroed": zeroed, "compensated": compensated}

    def layers(self) -> SparseLayers:
        """Return the layers that can have zeros."""
        from edgecompile.pruning.sparsify import sparse_layers

        return sparse_layers(self._before.value().exported, self._settings.exclude)

    def _zero(self) -> CapturedProgram:
        from edgecompile.pruning.count_zeros import zero_rows
        from edgecompile.pruning.sparsify import zeroed

        started, program = time.perf_counter(), self._before.value()
        self._cache.progress.start("zero weights")
        layers = self.layers()
        exported = zeroed(program.exported, layers, self.sparsity)
        rows = zero_rows(layers, exported)
        zeros, weights = sum(row.zeros for row in rows), sum(row.weights for row in rows)
        self._cache.progress.finish(f"{zeros} of {weights} in {len(rows)} layers")
        record = step_record(
            "sparsify", started, program.exported, exported, rewrites=zeros, declined=layers.declined
        )
        return replace(program, exported=exported, steps=(*program.steps, record))

    def _compensate(self, program: CapturedProgram, data: Result[Dataset]) -> CapturedProgram:
        from edgecompile.pruning.compensate_zeros import compensate_zeros

        started, samples = time.perf_counter(), spread(data.value().samples, self._settings.samples)
        exported = compensate_zeros(
            self._before.value().exported, program.exported, samples, self._cache.progress
        )
        record = step_record("make up for zeros", started, program.exported, exported, rewrites=0)
        return replace(program, exported=exported, steps=(*program.steps, record))
