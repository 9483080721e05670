"""Validate the same bundles on this host and on emulated cores: a table in docs/validation.md.

    python benchmarks/connections.py --data FOLDER --bundles FOLDER

The data is that of benchmarks/validation.py. Every model is built for android-arm64 once, INT8 `.pte` and
`.onnx` and FP32 `.pte`, into `--bundles`; a bundle that is already there is used as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from validation import IMAGENET, MODELS, pictures

from edgecompile.artifact import MANIFEST
from edgecompile.compile import build
from edgecompile.dataset import spread
from edgecompile.program import Precision
from edgecompile.settings import BuildSettings
from edgecompile.target import load_target

TARGET = "android-arm64"
FORMATS: dict[Precision, tuple[str, ...]] = {"int8": ("pte", "onnx"), "fp32": ("pte",)}


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


def main() -> None:
    """Build what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundles", type=Path, required=True)
    arguments = parser.parse_args()
    for name in MODELS:
        for precision in FORMATS:
            print(made_bundle(name, precision, arguments.data, arguments.bundles), flush=True)


if __name__ == "__main__":
    main()
