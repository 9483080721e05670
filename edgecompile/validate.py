"""`edgecompile validate`: run a bundle's artifacts on this host and compare them with the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.export import ExportedProgram

from edgecompile.artifact import CONSTANTS, MANIFEST, PROGRAM, Bundle
from edgecompile.artifact_run import ArtifactRun, Place, in_python, over_connection
from edgecompile.connection import Connection
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine_libraries import runs_on
from edgecompile.errors import InvalidManifestError
from edgecompile.evaluate import Quality, evaluate, needs_precise_host
from edgecompile.goldens import read_goldens
from edgecompile.layer_check import LayerPrograms, check_layers
from edgecompile.layer_tally import LayerResult
from edgecompile.program_file import read_program
from edgecompile.progress import Progress, QuietProgress
from edgecompile.report import quality_dict, quality_table
from edgecompile.runner_build import built_runner
from edgecompile.signature import inputs_of, outputs_of
from edgecompile.target import Target, load_target
from edgecompile.text_table import render, table
from edgecompile.trusted_bundle import open_bundle


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What validation found.

    Attributes:
        artifacts: The SHA-256 of each artifact, by its format.
        quality: End to end, one row a program or artifact.
        layers: Layer by layer, for each artifact in Python, and for each native run that differs from it;
            empty where it was skipped or nothing is quantized.
        notes: What could not be run where it was wanted, and why.
    """

    bundle: str
    samples: int
    artifacts: dict[str, str]
    quality: tuple[Quality, ...]
    layers: dict[str, tuple[LayerResult, ...]]
    notes: tuple[str, ...] = ()

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
        parts += [f"  {self._beside_here(row)}\n" for row in self.quality if row.as_here is not None]
        parts += [f"  {note}\n" for note in self.notes]
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
            "artifacts": self.artifacts,
            "passed": self.passed,
            "notes": list(self.notes),
            "quality": [quality_dict(row) for row in self.quality],
            "layers": {
                name: [dataclasses.asdict(layer) for layer in rows] for name, rows in self.layers.items()
            },
        }

    def _beside_here(self, row: Quality) -> str:
        """Say how a native run compares with this host, and where a difference begins."""
        found = row.as_here
        assert found is not None
        if found.first_sample is None:
            return f"{row.name}: all outputs are those of {found.name} on this host, bit for bit"
        text = (
            f"{row.name}: {found.identical:.3%} of the output elements are those of {found.name} on this "
            f"host, the largest difference is {found.max_abs_difference:.3g}"
        )
        if row.name not in self.layers:
            return text
        there, here = (_first_difference(self.layers[name]) for name in (row.name, found.name))
        return f"{text}\n    layers that are not as the reference: there {there}, on this host {here}"

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
                f"{worst.name} ({worst.kind})" if worst.identical < 1 else "-",
                f"{worst.identical:.3%}",
                str(worst.largest_step),
            )
        return layer_table


def validate(
    path: Path,
    *,
    layers: bool = True,
    connection: Connection | None = None,
    public_keys: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Validation:
    """Run every artifact of a bundle in its engine on the goldens.

    Args:
        path: The bundle.
        layers: Also compare layer by layer; this lowers every layer on its own.
        connection: Also run the artifacts in their native runners there.
        public_keys: Files of public keys, one of which must have signed the bundle; `open_bundle` says more.
        progress: Is told of each step.

    Raises:
        NotABundleError: `path` is no bundle.
        InvalidManifestError: The manifest or the program is damaged.
        AlteredFileError: A file is not the one that was built.
        SignatureMissingError: The bundle must be signed, and is not.
        SignatureInvalidError: None of the keys has signed the bundle as it is.
        UnlistedFileError: The bundle must be signed, and holds what was not.
        EngineFailedError: An engine rejects an artifact.
        RunnerFailedError: A native runner crashed.
    """
    progress = progress or QuietProgress()
    bundle = open_bundle(path, public_keys)
    target = load_target(bundle.manifest.target)
    _check_formats(bundle, target)
    exported = read_program(bundle.read(PROGRAM), bundle.read(CONSTANTS), path / PROGRAM)
    _check_signature(bundle, exported)
    samples, float_outputs = read_goldens(bundle)
    precise = needs_precise_host(target)
    here: Place = partial(in_python, precise=precise)
    runs = [here(item.format, item.engine, bundle.read(item.path)) for item in bundle.artifacts]
    places = dict.fromkeys((run.name for run in runs), here)
    notes: list[str] = []
    if connection is not None:
        there = partial(
            over_connection, connection=connection, precise=precise and connection.platform == "host"
        )
        native, notes = _native_runs(bundle, connection, there, progress)
        places |= dict.fromkeys((run.name for run in native), there)
        runs += native
    precision = bundle.manifest.precision
    quality = evaluate(
        exported,
        runs,
        samples,
        float_outputs,
        precision=precision,
        settings=target.validation,
        progress=progress,
    )
    checks: dict[str, tuple[LayerResult, ...]] = {}
    if layers:
        programs = LayerPrograms(exported)
        for run in runs:
            (row,) = (row for row in quality if row.name == run.name)
            chosen = _layer_samples(row, samples)
            if chosen:
                found = check_layers(
                    exported,
                    target.emit[run.format],
                    chosen,
                    target.validation,
                    progress,
                    place=places[run.name],
                    programs=programs,
                )
                checks |= {run.name: found} if found else {}  # nothing may be quantized
    return Validation(
        bundle=str(path),
        samples=len(samples),
        artifacts={item.format: item.sha256 for item in bundle.artifacts},
        quality=quality,
        layers=checks,
        notes=tuple(notes),
    )


def _layer_samples(row: Quality, samples: list[Sample]) -> list[Sample]:
    """Return what an artifact's layers are compared on: natively, the first sample that is not as here."""
    if row.as_here is None:
        return samples
    first = row.as_here.first_sample
    return [] if first is None else [samples[first]]


def _native_runs(
    bundle: Bundle, connection: Connection, place: Place, progress: Progress
) -> tuple[list[ArtifactRun], list[str]]:
    """Return the artifacts' runs over a connection, and why some have none."""
    runs, notes = [], []
    for item in bundle.artifacts:
        if not runs_on(item.engine, connection.platform):
            reason = f"{item.engine} has no native library for {connection.platform}"
            notes.append(f"{item.format}: not run on {connection.description}: {reason}")
            continue
        built_runner(item.engine, connection.platform, progress)  # before the run's own progress
        runs.append(place(item.format, item.engine, bundle.read(item.path)))
    return runs, notes


def _first_difference(layers: Sequence[LayerResult]) -> str:
    differing = [layer for layer in layers if layer.identical < 1]
    if not differing:
        return "none"
    first = differing[0]
    where = f", {first.where}" if first.where else ""
    return (
        f"{len(differing)}, first {first.name} ({first.kind}{where}), {first.identical:.3%} equal, "
        f"at most {first.largest_step} steps"
    )


def _check_formats(bundle: Bundle, target: Target) -> None:
    for item in bundle.artifacts:
        settings = target.emit.get(item.format)
        if settings is None or load_emitter(settings.emitter).engine != item.engine:
            raise InvalidManifestError(
                f"the target {target.name!r} has no format {item.format!r} for {item.engine!r}",
                where=str(bundle.path / MANIFEST),
            )


def _check_signature(bundle: Bundle, exported: ExportedProgram) -> None:
    manifest = bundle.manifest
    told = any(entry.dynamic for entry in (*manifest.inputs, *manifest.outputs))
    for entries, found in ((manifest.inputs, inputs_of(exported)), (manifest.outputs, outputs_of(exported))):
        # Bundles from before dynamic sizes had names tell none.
        own = found if told else tuple(replace(entry, dynamic=()) for entry in found)
        if entries != own:
            raise InvalidManifestError(
                f"the manifest does not have the inputs and outputs of {PROGRAM}",
                where=str(bundle.path / MANIFEST),
                expected="\n".join(map(str, own)),
                found="\n".join(map(str, entries)),
            )
