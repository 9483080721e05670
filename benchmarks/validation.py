"""Measure what validation proves, on real pictures: the table in docs/validation.md.

    python benchmarks/validation.py --data FOLDER [--images 100] [--output FILE.jsonl]

FOLDER is that of `imagenet_sample.py`. Every model is calibrated on every
fifth picture and measured on `--images` others; each is built for android-arm64 in INT8 and, for its size,
in FP32.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from imagenet_sample import CALIBRATION, EVALUATION, STATISTICS, pictures

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from edgecompile.artifact_run import in_python
from edgecompile.capture import capture, load_model
from edgecompile.dataset import Dataset
from edgecompile.emitter import load_emitter
from edgecompile.engines.onnxruntime import optimized_operators
from edgecompile.evaluate import evaluate, run_float
from edgecompile.graph_pass import run_passes
from edgecompile.layer_check import check_layers
from edgecompile.layer_tally import LayerResult
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.readers import pte
from edgecompile.target import load_target

IMAGENET = ("mobilenet_v2", "efficientnet_lite0")  # whose classes are the labels


def measure(name: str, folder: Path, images: int) -> dict[str, Any]:
    """Build one model and return its rows."""
    calibration = Dataset(samples=pictures(folder, CALIBRATION, name), spec="pictures")
    indices = EVALUATION[:: len(EVALUATION) // images][:images]
    samples = pictures(folder, indices, name)
    if name not in IMAGENET:
        samples = tuple(dataclasses.replace(sample, label=None) for sample in samples)
    target = load_target("android-arm64")
    spec = str(Path(__file__).parent.parent / "examples" / f"{name}.py") + ":model"
    progress = QuietProgress()
    captured = capture(load_model(spec), dynamic_batch=False)
    rewritten = run_passes(captured, [entry.name for entry in target.passes])
    # Plain INT8: the engines are compared with the reference; corrections have a benchmark of their own.
    plain = dataclasses.replace(target.quantization, activation_observer="histogram")
    program = quantize(rewritten, calibration, plain, progress)
    emitted = {key: load_emitter(value.emitter).emit(program, value) for key, value in target.emit.items()}
    floats = {
        key: len(load_emitter(value.emitter).emit(keep_float(rewritten), value).data)
        for key, value in target.emit.items()
    }
    place = partial(in_python, precise=True)
    runs = [place(key, item.engine, item.data) for key, item in emitted.items()]
    with torch.no_grad():
        float_outputs = run_float(captured.exported, samples, progress)
    quality = evaluate(
        program.exported,
        runs,
        samples,
        float_outputs,
        precision=program.precision,
        settings=target.validation,
        progress=progress,
    )
    contents = pte.read(emitted["pte"].data)
    document: dict[str, Any] = {
        "model": name,
        "images": len(samples),
        "quality": [dataclasses.asdict(row) for row in quality],
        "delegate_calls": contents.delegates,
        "outside_delegate": contents.outside_delegate,
        "onnx_executed": optimized_operators(emitted["onnx"].data),
        "ptl_operators": emitted["ptl"].operators,
        "size_share": {key: len(item.data) / floats[key] for key, item in emitted.items()},
        "size_bytes": {key: len(item.data) for key, item in emitted.items()},
        "layers": {},
    }
    for key, settings in target.emit.items():
        started = time.perf_counter()
        results = check_layers(program.exported, settings, samples, target.validation, progress, place=place)
        document["layers"][key] = summary(results) | {"seconds": time.perf_counter() - started}
    return document


def summary(results: Sequence[LayerResult]) -> dict[str, Any]:
    """Return the counts that the table shows."""
    exact = [row for row in results if row.kind in ("conv2d", "linear")]
    others = [row for row in results if row.kind not in ("conv2d", "linear")]
    return {
        "layers": len(results),
        "passed": sum(row.passed for row in results),
        "conv_linear": len(exact),
        "conv_linear_bit_for_bit": sum(row.identical == 1 for row in exact),
        "conv_linear_least_within_one_step": min(row.within for row in exact),
        "others": len(others),
        "others_bit_for_bit": sum(row.identical == 1 for row in others),
        "others_least_within_one_step": min((row.within for row in others), default=1.0),
        "largest_step": max(row.largest_step for row in results),
    }


def markdown(documents: Sequence[dict[str, Any]]) -> str:
    """Return the two tables of docs/validation.md."""
    rows = [
        "| model | artifact | SQNR dB (reference) | top-1 as float % (reference) | equal to the reference % "
        "| top-1 % (float) | size, % of FP32 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for document in documents:
        float_row, exact_row, *artifacts = document["quality"]
        exact = exact_row["against_float"]
        for row in artifacts:
            own, reference = row["against_float"], row["reference"]
            task = "-"
            if row["accuracy"] is not None:
                task = f"{row['accuracy'] * 100:.1f} ({float_row['accuracy'] * 100:.1f})"
            rows.append(
                f"| {document['model']} | {row['name']} | {own['sqnr_db']:.2f} ({reference['sqnr_db']:.2f}) "
                f"| {own['agreement'] * 100:.0f} ({reference['agreement'] * 100:.0f}) "
                f"| {row['identical'] * 100:.2f} | {task} "
                f"| {document['size_share'][row['name']] * 100:.1f} |"
            )
        rows.append(
            f"| {document['model']} | rounded once, no engine | {exact['sqnr_db']:.2f} "
            f"| {exact['agreement'] * 100:.0f} | - | - | - |"
        )
    rows += [
        "",
        "| model | artifact | conv and linear, bit for bit | other layers, bit for bit "
        "| least share within one step % | largest step |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for document in documents:
        for name, found in document["layers"].items():
            least = min(found["conv_linear_least_within_one_step"], found["others_least_within_one_step"])
            rows.append(
                f"| {document['model']} | {name} "
                f"| {found['conv_linear_bit_for_bit']} of {found['conv_linear']} "
                f"| {found['others_bit_for_bit']} of {found['others']} "
                f"| {least * 100:.4f} | {found['largest_step']} |"
            )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure every model, print one JSON document each, and the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--models", nargs="+", default=list(STATISTICS), choices=list(STATISTICS))
    parser.add_argument("--output", type=Path, help="append one JSON document a line to this file")
    arguments = parser.parse_args()
    documents = []
    for name in arguments.models:
        documents.append(measure(name, arguments.data, arguments.images))
        line = json.dumps(documents[-1])
        print(line, flush=True)
        if arguments.output:
            with arguments.output.open("a") as file:
                file.write(line + "\n")
    print(markdown(documents))


if __name__ == "__main__":
    main()
