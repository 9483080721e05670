"""Measure what each step of INT8 quantization brings, on real weights and real pictures.

    python benchmarks/quantization.py --data FOLDER [--models NAME ...] [--methods NAME ...]
        [--target linux-x86-64] [--format pte ...]

FOLDER is that of `imagenet_sample.py`: every fifth picture calibrates, the others are evaluated. Each row is
a build of its own, and its numbers are those of the artifacts in their engines: SQNR of the logits and top-1
agreement against the float model, and top-1. The time is what passes, equalization, calibration and
corrections take, in CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagenet_sample import CALIBRATION, EVALUATION, pictures

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
MODELS = ("mobilenet_v2", "efficientnet_lite0")
PLAIN = {
    "equalization": False,
    "bias_absorption": False,
    "concat_splitting": False,
    "channel_splitting": 0,
    "weight_rounding": "nearest",
    "bias_correction": False,
}
METHODS: dict[str, dict[str, Any]] = {
    "min-max": {**PLAIN, "activation_observer": "min-max"},
    "moving-average": {**PLAIN, "activation_observer": "moving-average"},
    "percentile 99.99": {**PLAIN, "activation_observer": "percentile"},
    "entropy": {**PLAIN, "activation_observer": "entropy"},
    "torchao's histogram": {**PLAIN, "activation_observer": "histogram"},
    "mse": PLAIN,
    "mse, weights too": {**PLAIN, "weight_observer": "mse"},
    "mse + equalization": {**PLAIN, "equalization": True},
    "mse + equalization + absorption": {**PLAIN, "equalization": True, "bias_absorption": True},
    "mse + equalization + absorption + bias correction": {"weight_rounding": "nearest"},
    "mse + compensated rounding + bias correction": {"equalization": False, "bias_absorption": False},
    "all but absorption": {"bias_absorption": False},
    "all: the default": {},
    "default + adaptive rounding": {"weight_rounding": "adaptive"},
    "default + distillation": {"distillation_steps": 300},
    "default + adaptive rounding + distillation": {
        "weight_rounding": "adaptive",
        "distillation_steps": 300,
    },
}


class QuantizeClock:
    """Adds up the CPU seconds of a build from the passes to the quantized program."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0
        self._stage = ""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._stage, self._started = stage, time.process_time()

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self, detail: str = "") -> None:
        """Count the stage."""
        if self._stage.startswith(("passes", "fit channels", "calibrate", "correct", "distill")):
            self.seconds += time.process_time() - self._started


def write_pictures(folder: Path, model: str, output: Path) -> tuple[Path, Path]:
    """Write calibration and evaluation data for a model, and return the two files."""
    files = []
    for name, indices in (("calibration", CALIBRATION), ("evaluation", EVALUATION)):
        samples = pictures(folder, indices, model)
        files.append(output / f"{model}-{name}.npz")
        values = torch.cat([sample.inputs[0] for sample in samples]).numpy()
        np.savez(files[-1], x=values, labels=np.array([sample.label for sample in samples]))
    return files[0], files[1]


def measure(
    model: str, method: str, data: tuple[Path, Path], arguments: argparse.Namespace, output: Path
) -> list[str]:
    """Build a model with a method, and return the table's rows, one an artifact."""
    from edgecompile.compile import build
    from edgecompile.settings import Options, resolve

    clock = QuantizeClock()
    options = Options(
        target=(arguments.target,),
        format=tuple(arguments.format),
        calibration=str(data[0]),
        evaluation=str(data[1]),
        quantization=METHODS[method],
        output=str(output / "bundle"),
        cache=False,  # the time is that of the whole method
    )
    (bundle,) = build(resolve(f"{EXAMPLES / model}.py:model", options, None), clock)
    report: dict[str, Any] = json.loads(bundle.read("report.json"))
    floats = next(row for row in report["quality"] if row["name"] == "float")
    rows = []
    for row in report["quality"]:
        found = row["against_float"]
        if found is None:
            continue
        rows.append(
            f"| {model} | {method} | {row['name']} | {found['sqnr_db']:.2f} | {found['agreement']:.2%} | "
            f"{row['accuracy']:.2%} | {floats['accuracy']:.2%} | {clock.seconds:.1f} |"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--target", default="linux-x86-64")
    parser.add_argument("--format", nargs="+", default=["pte", "ptl", "onnx"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | method | what | SQNR dB | agreement | top-1 | float's | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            data = write_pictures(arguments.data, model, Path(folder))
            for method in arguments.methods:
                print("\n".join(measure(model, method, data, arguments, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
