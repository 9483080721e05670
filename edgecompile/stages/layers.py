"""How good each layer is: measured once for a program, whatever is emitted from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.reads import tools

if TYPE_CHECKING:
    from edgecompile.layer_quality import LayerReport
    from edgecompile.target import Target


class KeptLayers:
    """Keeps the rows of the report."""

    name = "layers"

    def write(self, value: LayerReport, file: HashedFile) -> dict[str, Any]:
        """Write the rows as JSON."""
        file.write(json.dumps(value.to_dict(), allow_nan=False).encode())
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> LayerReport:
        """Return the rows."""
        from edgecompile.layer_quality import read_layer_report

        return read_layer_report({"layers": json.loads(path.read_bytes())}, path)

    def can_keep(self, value: LayerReport) -> bool:
        """Rows can always be kept."""
        return True


def layer_quality(
    cache: StageCache,
    *,
    program: Result[QuantizedProgram],
    in_float: Result[CapturedProgram],
    data: Result[Dataset],
    target: Target,
) -> Result[LayerReport]:
    """Return how good each layer of a program is beside the float program that the quantizer saw."""
    count = target.validation.layer_samples
    label = f"layers of {target.name}"

    def make() -> LayerReport:
        from edgecompile.layer_quality import layer_report
        from edgecompile.quantize.measure_layers import measure_layers

        quantized = program.value()
        if quantized.precision != "int8":
            return layer_report((), 0)
        exported, samples = in_float.value().exported, spread(data.value().samples, count)
        cache.progress.start(label)
        report = measure_layers(quantized, exported, samples)
        cache.progress.finish(report.fall_text())
        return report

    key = digest("layers", program.digest, in_float.digest, data.digest, str(count), tools())
    return cache.result(KeptLayers(), key, make, label)
