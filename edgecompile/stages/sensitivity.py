"""How sensitive each layer is: kept sample by sample, so that a run that was interrupted goes on."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.sensitivity import SampleNoise, SensitivityReport
    from edgecompile.target import Target


class KeptSample:
    """Keeps what the parts of a program cost on one sample."""

    name = "sensitivity-sample"

    def write(self, value: SampleNoise, file: HashedFile) -> dict[str, Any]:
        """Write the numbers as JSON."""
        file.write(json.dumps(dataclasses.asdict(value)).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> SampleNoise:
        """Return the numbers."""
        from edgecompile.sensitivity import sample_noise_from_dict

        return sample_noise_from_dict(json.loads(path.read_bytes()))

    def can_keep(self, value: SampleNoise) -> bool:
        """Numbers can always be kept."""
        return True


class KeptSensitivity:
    """Keeps the rows of the report."""

    name = "sensitivity"

    def write(self, value: SensitivityReport, file: HashedFile) -> dict[str, Any]:
        """Write the rows as JSON."""
        file.write(json.dumps(value.to_dict(), allow_nan=False).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> SensitivityReport:
        """Return the rows."""
        from edgecompile.sensitivity import read_sensitivity_report

        return read_sensitivity_report({"sensitivity": json.loads(path.read_bytes())}, path)

    def can_keep(self, value: SensitivityReport) -> bool:
        """Rows can always be kept."""
        return True


def sensitivity(
    cache: StageCache,
    *,
    program: Result[QuantizedProgram],
    in_float: Result[CapturedProgram],
    data: Result[Dataset],
    target: Target,
) -> Result[SensitivityReport]:
    """Return how much the rounding of each layer of a program changes its outputs."""
    count = target.validation.sensitivity_samples
    label = f"sensitivity of {target.name}"
    key = digest("sensitivity", program.digest, in_float.digest, data.digest, str(count), tools())

    def make() -> SensitivityReport:
        from edgecompile.quantize.sensitivity import measure_sample, rounded_parts
        from edgecompile.quantize.simulation import Simulation
        from edgecompile.sensitivity import PartName, sensitivity_report

        simulation = Simulation(program.value().exported, in_float.value().exported)
        parts = rounded_parts(simulation)
        samples = spread(data.value().samples, count)
        cache.progress.start(label, len(samples))
        measured = []
        for index, sample in enumerate(samples):
            measure = partial(measure_sample, simulation, parts, sample)
            measured.append(cache.value(KeptSample(), digest(key, str(index)), measure))
            cache.progress.advance()
        cache.progress.finish(f"{len(parts)} parts, {len(samples)} samples")
        names = [PartName(name=part.name, kind=part.kind, where=part.where) for part in parts]
        return sensitivity_report(names, measured)

    return cache.result(KeptSensitivity(), key, make, label)
