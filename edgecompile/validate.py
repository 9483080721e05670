"""`edgecompile validate`: run a bundle's artifacts on this host and compare them with the reference."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from edgecompile.artifact import Bundle, load_bundle
from edgecompile.bundle_writer import CONSTANTS, GOLDENS, PROGRAM, golden_name
from edgecompile.dataset import Sample
from edgecompile.errors import InvalidManifestError
from edgecompile.evaluate import Loadable, Quality, evaluate
from edgecompile.layer_check import LayerResult, check_layers
from edgecompile.program_file import read_program
from edgecompile.progress import Progress, QuietProgress
from edgecompile.report import quality_dict, quality_table
from edgecompile.target import Target, load_target
from edgecompile.text_table import render, table


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What validation found.

    Attributes:
        quality: End to end, one row a program or artifact.
        layers: Layer by layer, for each format; empty where it was skipped or nothing is quantized.
    """

    bundle: str
    samples: int
    quality: tuple[Quality, ...]
    layers: dict[str, tuple[LayerResult, ...]]

    @property
    def passed(self) -> bool:
        """Whether every threshold of the target holds."""
        end_to_end = all(not row.missed for row in self.quality)
        return end_to_end and all(layer.passed for rows in self.layers.values() for layer in rows)

    def text(self) -> str:
        """Return the tables for a terminal."""
        parts = [
            f"{self.bundle}: {self.samples} golden inputs on this host\n",
            render(quality_table(self.quality)),
        ]
        if self.layers:
            parts += ["layer by layer, fed with the reference's own inputs\n", render(self._layer_table())]
        parts += [f"  {row.name}: {text}\n" for row in self.quality for text in row.missed]
        parts += [
            f"  {name}: layer {layer.name} ({layer.kind}, {layer.where}) differs: {layer.identical:.3%} "
            f"equal, {layer.within:.3%} within the allowed steps, at most {layer.largest_step} steps\n"
            for name, rows in self.layers.items()
            for layer in rows
            if not layer.passed
        ]
        return "\n".join([*parts, "passed" if self.passed else "FAILED"])

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON's types."""
        return {
            "bundle": self.bundle,
            "samples": self.samples,
            "passed": self.passed,
            "quality": [quality_dict(row) for row in self.quality],
            "layers": {
                name: [dataclasses.asdict(layer) for layer in rows] for name, rows in self.layers.items()
            },
        }

    def _layer_table(self) -> Table:
        layer_table = table(
            "artifact", "layers", "bit for bit", "exact kinds", "worst layer", "equal", "steps"
        )
        for name, rows in self.layers.items():
            worst = min(rows, key=lambda layer: (layer.passed, layer.identical))
            exact = [layer for layer in rows if layer.exact]
            layer_table.add_row(
                name,
                str(len(rows)),
                str(sum(layer.identical == 1 for layer in rows)),
                f"{sum(layer.identical == 1 for layer in exact)} of {len(exact)}" if exact else "-",
                f"{worst.name} ({worst.kind})",
                f"{worst.identical:.3%}",
                str(worst.largest_step),
            )
        return layer_table


def validate(path: Path, *, layers: bool = True, progress: Progress | None = None) -> Validation:
    """Run every artifact of a bundle in its engine on the goldens.

    Args:
        path: The bundle.
        layers: Also compare layer by layer; this lowers every layer on its own.
        progress: Is told of each step.

    Raises:
        NotABundleError: `path` is no bundle.
        InvalidManifestError: The manifest or the program is damaged.
        AlteredFileError: A file is not the one that was built.
        EngineFailedError: An engine rejects an artifact.
    """
    progress = progress or QuietProgress()
    bundle = load_bundle(path)
    bundle.verify()
    target = load_target(bundle.manifest.target)
    exported = read_program(path / PROGRAM, path / CONSTANTS)
    samples, float_outputs = _goldens(bundle)
    artifacts = [
        Loadable(format=item.format, engine=item.engine, data=bundle.read(item.path))
        for item in bundle.artifacts
    ]
    quality = evaluate(exported, artifacts, samples, float_outputs, target.validation, progress)
    checks: dict[str, tuple[LayerResult, ...]] = {}
    if layers and bundle.manifest.precision == "int8":
        checks = _check_each(bundle, target, exported, samples, progress)
    return Validation(bundle=str(path), samples=len(samples), quality=quality, layers=checks)


def _check_each(
    bundle: Bundle,
    target: Target,
    exported: torch.export.ExportedProgram,
    samples: Sequence[Sample],
    progress: Progress,
) -> dict[str, tuple[LayerResult, ...]]:
    unknown = [item.format for item in bundle.artifacts if item.format not in target.emit]
    if unknown:
        raise InvalidManifestError(
            f"the target {target.name!r} has no format {unknown[0]!r}", where=str(bundle.path)
        )
    return {
        item.format: check_layers(exported, target.emit[item.format], samples, target.validation, progress)
        for item in bundle.artifacts
    }


def _goldens(bundle: Bundle) -> tuple[list[Sample], list[tuple[torch.Tensor, ...]]]:
    manifest = bundle.manifest
    samples, outputs = [], []
    for index in range(manifest.goldens):
        inputs = tuple(_read_golden(bundle, index, "input", entry.name) for entry in manifest.inputs)
        samples.append(Sample(inputs=inputs, label=None))
        outputs.append(tuple(_read_golden(bundle, index, "float", entry.name) for entry in manifest.outputs))
    return samples, outputs


def _read_golden(bundle: Bundle, index: int, kind: str, name: str) -> torch.Tensor:
    file = f"{GOLDENS}/{golden_name(index, kind, name)}"
    try:
        return torch.from_numpy(np.load(io.BytesIO(bundle.read(file)), allow_pickle=False))
    except (ValueError, TypeError, EOFError) as error:
        raise InvalidManifestError(
            f"the golden {file!r} is no array: {error}", where=str(bundle.path)
        ) from error
