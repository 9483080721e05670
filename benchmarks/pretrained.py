"""Measure what INT8 costs pretrained networks of other kinds than classifiers of pictures.

    python benchmarks/pretrained.py --packages FOLDER [--models NAME ...] [--methods NAME ...]
        [--target linux-x86-64] [--format pte ...] [--output FOLDER]

FOLDER has the packages that weights and data are read from; what is missing is named, with the command that
gets it. A package that is installed beside edgecompile need not be there. Each row is an artifact in its
engine: SQNR of all outputs against the float network, on samples that did not calibrate, and the task's own
measure. With --output the bundles are kept, for `edgecompile inspect BUNDLE --layers`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pretrained_models.sources import MissingPackageError
from quantization import PLAIN

# The module of each network, and what its functions' names begin with.
MODELS = {
    "silero-vad": ("silero_vad", ""),
    "crepe-tiny": ("crepe", ""),
    "mtcnn-pnet": ("mtcnn", "pnet_"),
    "mtcnn-rnet": ("mtcnn", "rnet_"),
    "mtcnn-onet": ("mtcnn", "onet_"),
    "crnn": ("crnn", ""),
    "minilm-l6": ("minilm", ""),
}
METHODS: dict[str, dict[str, Any]] = {
    "naive": {"quantization": {**PLAIN, "activation_observer": "min-max"}},
    "default": {},
    "int8-dynamic": {"precision": "int8-dynamic"},
}
_ONLY_FOR = {"int8-dynamic": ("minilm-l6",)}  # it is for linear layers; the other networks have few

Run = Callable[..., tuple[torch.Tensor, ...]]


def functions(name: str) -> tuple[str, Callable[[str], Any]]:
    """Return what the names of a network's functions begin with on the command line, and a getter."""
    module, prefix = MODELS[name]
    path = f"pretrained_models.{module}"
    return f"{path}:{prefix}", lambda own: getattr(importlib.import_module(path), prefix + own)


def in_float(name: str) -> Run:
    """Return what runs the network itself."""
    network, _ = functions(name)[1]("model")()

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            outputs = network(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run


def measure(
    name: str, method: str, float_measure: float, arguments: argparse.Namespace, output: Path
) -> list[str]:
    """Build a network with a method, and return the table's rows, one an artifact."""
    from edgecompile.compile import build
    from edgecompile.engine import load_engine
    from edgecompile.evaluate import needs_precise_host
    from edgecompile.settings import Options, resolve
    from edgecompile.target import load_target

    spec, get = functions(name)
    options = Options(
        target=(arguments.target,),
        format=tuple(arguments.format),
        evaluation=f"{spec}evaluation",
        output=str(output / name / method),
        cache=False,
        **{"calibration": f"{spec}calibration"} if method != "int8-dynamic" else {},
        **METHODS[method],
    )
    (bundle,) = build(resolve(f"{spec}model", options))
    found = {row["name"]: row["against_float"] for row in bundle.report_dict()["quality"]}
    precise = needs_precise_host(load_target(arguments.target))
    rows = []
    for artifact in bundle.artifacts:
        session = load_engine(artifact.engine).load(bundle.read(artifact.path), precise=precise)
        own = get("measure")(lambda *inputs, session=session: session.run(inputs))
        rows.append(
            f"| {name} | {artifact.format} | {method} | {found[artifact.format]['sqnr_db']:.1f} | "
            f"{_measure_name(name)} | {float_measure:.2%} | {own:.2%} |"
        )
    return rows


def _measure_name(name: str) -> str:
    return str(importlib.import_module(f"pretrained_models.{MODELS[name][0]}").MEASURE)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--packages", type=Path, metavar="FOLDER")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--target", default="linux-x86-64")
    parser.add_argument("--format", nargs="+", default=["pte", "ptl", "onnx"])
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    torch.set_num_threads(1)
    print("| model | format | method | SQNR dB | measure | in float | in INT8 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            try:
                float_measure = functions(name)[1]("measure")(in_float(name))
            except MissingPackageError as missing:
                print(f"{name}: {missing}", file=sys.stderr)
                continue
            for method in arguments.methods:
                if name in _ONLY_FOR.get(method, MODELS):
                    rows = measure(name, method, float_measure, arguments, arguments.output or Path(folder))
                    print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
