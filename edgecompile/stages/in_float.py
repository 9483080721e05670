"""The float program that a target quantizes, or keeps: after the passes, and equalized for static INT8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.program import CapturedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    import torch

    from edgecompile.program import Precision
    from edgecompile.quantize.equalize import Equalization
    from edgecompile.target import Target


class KeptEqualization:
    """Keeps the factors of channels."""

    name = "equalize"

    def write(self, value: Equalization, file: HashedFile) -> dict[str, Any]:
        """Write the factors; the gain stands beside them."""
        from edgecompile.tensor_file import write_tensors

        both = {"factor": value.factors, "sensitivity": value.sensitivities}
        named = {f"{kind}/{name}": tensor for kind, own in both.items() for name, tensor in own.items()}
        write_tensors(file, named)
        return {"gain_db": value.gain_db}

    def read(self, path: Path, summary: dict[str, Any]) -> Equalization:
        """Return the factors."""
        from edgecompile.quantize.equalize import Equalization
        from edgecompile.tensor_file import read_tensors

        both: dict[str, dict[str, torch.Tensor]] = {"factor": {}, "sensitivity": {}}
        for key, tensor in read_tensors(path)[0].items():
            kind, _, name = key.partition("/")
            both[kind][name] = tensor
        return Equalization(
            factors=both["factor"], sensitivities=both["sensitivity"], gain_db=summary["gain_db"]
        )

    def can_keep(self, value: Equalization) -> bool:
        """Factors can always be kept."""
        return True


def float_program(
    cache: StageCache,
    captured: Result[CapturedProgram],
    *,
    calibration: Result[Dataset] | None,
    target: Target,
    precision: Precision,
) -> Result[CapturedProgram]:
    """Return the captured program after the target's passes; for static INT8 its channels are equalized."""
    passes = [entry.name for entry in target.passes]

    def make() -> CapturedProgram:
        from edgecompile.graph_pass import run_passes

        cache.progress.start(f"passes for {target.name}")
        program = run_passes(captured.value(), passes)
        cache.progress.finish(f"{len(program.exported.graph.nodes)} nodes")
        return program

    key = digest("passes", captured.digest, tools(), json.dumps(passes))
    program = cache.unwritten("passes", key, make, size_bytes=captured.size_bytes)
    if precision != "int8" or calibration is None or not target.quantization.equalization:
        return program
    return _equalized(cache, program, calibration, target)


def _equalized(
    cache: StageCache, program: Result[CapturedProgram], calibration: Result[Dataset], target: Target
) -> Result[CapturedProgram]:
    count = target.quantization.calibration_samples
    key = digest("equalize", program.key, calibration.digest, str(count))

    def find() -> Equalization:
        from edgecompile.quantize.equalize import find_equalization

        samples = spread(calibration.value().samples, count)
        return find_equalization(program.value(), samples, cache.progress)

    def make() -> CapturedProgram:
        from edgecompile.quantize.equalize import equalized

        found = cache.value(KeptEqualization(), key, find, "equalize")
        result = equalized(program.value(), found)
        program.drop()
        return result

    return cache.unwritten("equalized", key, make, size_bytes=program.size_bytes)
