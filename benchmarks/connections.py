"""Validate the same bundles on this host and on emulated cores: a table in docs/validation.md.

    python benchmarks/connections.py --data FOLDER --bundles FOLDER [--models ...] [--precisions ...]

The data is that of benchmarks/validation.py. Every model is built for android-arm64 once, INT8 `.pte` and
`.onnx` and FP32 `.pte`, into `--bundles`; a bundle that is already there is used as it is. FP32 is slow on
the emulator: minutes a row.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from validation import IMAGENET, MODELS, pictures

from edgecompile.artifact import MANIFEST, load_bundle
from edgecompile.compile import build
from edgecompile.connect import connect
from edgecompile.dataset import spread
from edgecompile.evaluate import Quality
from edgecompile.layer_tally import LayerResult
from edgecompile.program import Precision
from edgecompile.settings import BuildSettings
from edgecompile.target import load_target
from edgecompile.validate import Validation, validate

TARGET = "android-arm64"
FORMATS: dict[Precision, tuple[str, ...]] = {"int8": ("pte", "onnx"), "fp32": ("pte",)}
COLUMNS = (
    "bundle",
    "artifact",
    "where",
    "passed",
    "equal to Python here",
    "equal to the reference",
    "largest difference to Python here",
    "SQNR dB",
    "layers there that are not as the reference (most steps)",
    "those here",
)


@dataclass(frozen=True)
class Place:
    """Where artifacts run, as `edgecompile validate` names it."""

    connection: str
    device: str | None = None
    cpu: str | None = None

    @property
    def name(self) -> str:
        """Return the table's words for it."""
        return self.device or self.cpu or self.connection


PLACES = (
    Place("host"),
    Place("emulator", cpu="cortex-a53"),
    Place("emulator", cpu="cortex-a76"),
    Place("emulator", device="raspberry-pi-4"),
    Place("emulator", device="pixel-6"),
)


def made_bundle(name: str, precision: Precision, data: Path, bundles: Path) -> Path:
    """Build a model, if it is not there yet, and return its bundle."""
    bundle = bundles / f"{name}-{precision}" / TARGET
    if (bundle / MANIFEST).exists():
        return bundle
    with tempfile.TemporaryDirectory() as folder:
        calibration, evaluation = Path(folder) / "calibration.npz", Path(folder) / "evaluation.npz"
        _write(calibration, name, data, range(0, 500, 5))
        _write(evaluation, name, data, spread(range(1, 500, 5), load_target(TARGET).validation.goldens))
        settings = BuildSettings(
            model=str(Path(__file__).parent.parent / "examples" / f"{name}.py") + ":model",
            targets=(TARGET,),
            formats=FORMATS[precision],
            calibration=str(calibration),
            evaluation=str(evaluation),
            precision=precision,
            output=bundle.parent,
        )
        build(settings)
    return bundle


def _write(file: Path, name: str, data: Path, indices: Sequence[int]) -> None:
    samples = pictures(data, indices, *MODELS[name])
    arrays = {"pictures": np.stack([sample.inputs[0].numpy() for sample in samples])}
    if name in IMAGENET:
        arrays["labels"] = np.array([sample.label for sample in samples])
    np.savez(file, **arrays)


def rows_of(bundle: Path, place: Place) -> list[str]:
    """Validate a bundle in a place; return the table's rows."""
    with connect(place.connection, device=place.device, cpu=place.cpu) as connection:
        found = validate(bundle, layers=False, connection=connection)
        differs = any(row.as_here is not None and row.as_here.identical < 1 for row in found.quality)
        manifest = load_bundle(bundle).manifest
        if differs and manifest.precision == "int8":
            found = validate(bundle, connection=connection)
    (output,) = manifest.outputs
    return [_row(bundle, place, row, found, output.scale) for row in found.quality if row.as_here is not None]


def _row(bundle: Path, place: Place, row: Quality, found: Validation, scale: float | None) -> str:
    assert row.as_here is not None and row.against_float is not None and row.identical is not None
    difference = row.as_here.max_abs_difference
    quantized = scale is not None
    cells = [
        bundle.parent.name,
        row.as_here.name,
        place.name,
        "no: " + "; ".join(row.missed) if row.missed else "yes",
        f"{row.as_here.identical:.2%}",
        f"{row.identical:.2%}" if quantized else "-",
        f"{difference / scale:.0f} steps" if scale is not None else f"{difference:.1e}",
        f"{row.against_float.sqnr_db:.2f}",
        _layers(found.layers.get(row.name)),
        _layers(found.layers.get(row.as_here.name) if row.name in found.layers else None),
    ]
    return f"| {' | '.join(cells)} |"


def _layers(results: Sequence[LayerResult] | None) -> str:
    """Return the layers that are not equal to the reference, with the most steps."""
    if results is None:
        return "-"
    differing = [f"{layer.name} ({layer.largest_step})" for layer in results if layer.identical < 1]
    return ", ".join(differing) or "none"


def main() -> None:
    """Build what is missing, and print a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--precisions", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    for precision in arguments.precisions:
        for name in arguments.models:
            bundle = made_bundle(name, precision, arguments.data, arguments.bundles)
            for place in PLACES:
                print("\n".join(rows_of(bundle, place)), flush=True)


if __name__ == "__main__":
    main()
