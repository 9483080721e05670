"""The float program that a target quantizes, or keeps: after the passes, its channels fit for static INT8."""

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
    from edgecompile.quantize.fit_channels import ChannelFit
    from edgecompile.target import QuantizationSettings, Target


_KINDS = ("parts", "factors", "offsets", "sensitivities", "reaches")


class KeptChannelFit:
    """Keeps what is done to the channels."""

    name = "fit-channels"

    def write(self, value: ChannelFit, file: HashedFile) -> dict[str, Any]:
        """Write all that is found for each channel."""
        from edgecompile.tensor_file import write_tensors

        kinds = {kind: getattr(value, kind) for kind in _KINDS}
        tensors = {f"{kind}/{name}": own[name] for kind, own in kinds.items() for name in own}
        write_tensors(file, tensors | {"counts/": value.counts})
        return {"gain_db": value.gain_db}

    def read(self, path: Path, summary: dict[str, Any]) -> ChannelFit:
        """Return them."""
        from edgecompile.quantize.fit_channels import ChannelFit
        from edgecompile.tensor_file import read_tensors

        kinds: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
        tensors = read_tensors(path)[0]
        counts = tensors.pop("counts/")
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = tensor
        return ChannelFit(**kinds, counts=counts, gain_db=summary["gain_db"])

    def can_keep(self, value: ChannelFit) -> bool:
        """They can always be kept."""
        return True


def float_program(
    cache: StageCache,
    captured: Result[CapturedProgram],
    *,
    calibration: Result[Dataset] | None,
    target: Target,
    precision: Precision,
) -> Result[CapturedProgram]:
    """Return the captured program after the target's passes; in static INT8 its channels fit a range."""
    passes = target.passes_for(precision)

    def make() -> CapturedProgram:
        from edgecompile.graph_pass import run_passes

        cache.progress.start(f"passes for {target.name}")
        program = run_passes(captured.value(), passes)
        cache.progress.finish(f"{len(program.exported.graph.nodes)} nodes")
        return program

    key = digest("passes", captured.digest, tools(), json.dumps(passes))
    program = cache.unwritten("passes", key, make, size_bytes=captured.size_bytes)
    settings = target.quantization
    if precision != "int8" or calibration is None or not _is_fitted(settings):
        return program
    return _fitted(cache, program, calibration, target)


def _is_fitted(settings: QuantizationSettings) -> bool:
    wanted = settings.equalization, settings.bias_absorption, settings.concat_splitting
    return any(wanted) or settings.channel_splitting > 0


def _fitted(
    cache: StageCache, program: Result[CapturedProgram], calibration: Result[Dataset], target: Target
) -> Result[CapturedProgram]:
    settings = target.quantization
    said = (
        settings.equalization,
        settings.bias_absorption,
        settings.concat_splitting,
        settings.channel_splitting,
        settings.weight_bits,
        settings.calibration_samples,
    )
    key = digest("fit-channels", program.key, calibration.digest, *map(str, said))

    def find() -> ChannelFit:
        from edgecompile.quantize.fit_channels import find_fit

        samples = spread(calibration.value().samples, settings.calibration_samples)
        return find_fit(program.value(), samples, settings, cache.progress)

    def make() -> CapturedProgram:
        from edgecompile.quantize.fit_channels import fitted

        found = cache.value(KeptChannelFit(), key, find, "fit channels")
        result = fitted(program.value(), found)
        program.drop()
        return result

    return cache.unwritten("fitted", key, make, size_bytes=program.size_bytes)
