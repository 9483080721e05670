"""Measure other INT8 flows on the models and pictures of `quantization.py`, with stock ExecuTorch.

    python benchmarks/rival_flows.py --data FOLDER [--models NAME ...] [--methods NAME ...]

Each row is a `.pte` by torch.export, a quantizer and `to_edge_transform_and_lower`, run in the ExecuTorch
runtime on the pictures evaluated. The columns are those of `quantization.py`. The time is what calibration,
corrections and conversion take, from the exported to the quantized program, in CPU seconds on one thread.

NNCF's rows need it: see INSTALL.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from imagenet_sample import CALIBRATION, EVALUATION, pictures
from quantization import MODELS

from edgecompile.compare import accuracy, closeness
from edgecompile.dataset import Sample
from edgecompile.engines.executorch import Executorch

INSTALL = """NNCF's rows need it in a folder on PYTHONPATH:
    python -m pip install --no-deps --target FOLDER "nncf==3.4.*" openvino-telemetry "pydot<=4.0.1" \\
        scikit-learn joblib threadpoolctl tabulate safetensors"""
Samples = tuple[Sample, ...]
Quantize = Callable[[torch.fx.GraphModule, Samples], torch.fx.GraphModule]


def _quantizer() -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))


def stock(graph: torch.fx.GraphModule, calibration: Samples) -> torch.fx.GraphModule:
    """Quantize as ExecuTorch's documentation does."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    prepared = prepare_pt2e(graph, _quantizer())
    for sample in calibration:
        prepared(*sample.inputs)
    quantized: torch.fx.GraphModule = convert_pt2e(prepared)
    return quantized


def nncf_fast(graph: torch.fx.GraphModule, calibration: Samples) -> torch.fx.GraphModule:
    """Quantize with NNCF's defaults, which are its fast bias correction."""
    return _nncf(graph, calibration)


def nncf_accurate(graph: torch.fx.GraphModule, calibration: Samples) -> torch.fx.GraphModule:
    """Quantize with NNCF's accurate bias correction."""
    return _nncf(graph, calibration, fast_bias_correction=False)


def _nncf(graph: torch.fx.GraphModule, calibration: Samples, **options: Any) -> torch.fx.GraphModule:
    nncf: Any = importlib.import_module("nncf")
    flow: Any = importlib.import_module("nncf.experimental.torch.fx")
    data = nncf.Dataset(calibration, lambda sample: sample.inputs[0])
    quantized: torch.fx.GraphModule = flow.quantize_pt2e(
        graph, _quantizer(), data, subset_size=len(calibration), **options
    )
    return quantized


METHODS: dict[str, Quantize] = {
    "stock PT2E, XNNPACKQuantizer": stock,
    "NNCF quantize_pt2e": nncf_fast,
    "NNCF quantize_pt2e, accurate bias correction": nncf_accurate,
}


def measure(model: str, method: str, calibration: Samples, evaluation: Samples) -> str:
    """Build a model's `.pte` with a method, run it, and return the table's row."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    network, example = importlib.import_module(model).model()
    with torch.no_grad():
        expected = [(network(*sample.inputs),) for sample in evaluation]
        graph = torch.export.export(network, example).module()
        started = time.process_time()
        quantized = METHODS[method](graph, calibration)
        seconds = time.process_time() - started
        program = torch.export.export(quantized, example)
    data = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer
    session = Executorch.load(data, precise=False)
    outputs = [session.run(sample.inputs) for sample in evaluation]
    labels = [sample.label for sample in evaluation if sample.label is not None]
    found = closeness(outputs, expected)
    return (
        f"| {model} | {method} | pte | {found.sqnr_db:.2f} | {found.agreement:.2%} | "
        f"{accuracy(outputs, labels):.2%} | {accuracy(expected, labels):.2%} | {seconds:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    if any(method.startswith("NNCF") for method in arguments.methods):
        os.environ.setdefault("NNCF_CI", "1")  # its telemetry sends nothing
        try:
            importlib.import_module("nncf.experimental.torch.fx")
        except ModuleNotFoundError as error:
            sys.exit(f"{error}\n{INSTALL}")
    torch.set_num_threads(1)
    print("| model | method | what | SQNR dB | agreement | top-1 | float's | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for model in arguments.models:
        calibration = pictures(arguments.data, CALIBRATION, model)
        evaluation = pictures(arguments.data, EVALUATION, model)
        for method in arguments.methods:
            print(measure(model, method, calibration, evaluation), flush=True)


if __name__ == "__main__":
    main()
