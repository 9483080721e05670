"""Measure what a build costs, beside the flows that a user would write by hand.

    python benchmarks/compile_time.py [--repeats 3] [--models NAME ...] [--data FOLDER] [--samples 48]
        [--plot FILE] [--large]

Every flow runs in a fresh process on one thread, all flows in turn, `--repeats` times. The table shows
medians: CPU and wall seconds from the first import to the last artifact, without making the model and its
data; the peak memory of the process; and the ratio to the plain ExecuTorch flow. All flows calibrate on the
same samples: pictures of FOLDER (any size, cut to the model's), or noise. Builds are cold: each has an empty
cache, which it fills.

A build of edgecompile proves its artifacts too: "and proof" adds the runs of the float model, the reference
and every artifact on all samples, the goldens and the report.

A second table has whole commands, from the start of the interpreter to its end: one target and all targets
on an empty cache, and each once more with nothing changed. `--large` adds the 302-million-parameter encoder.
`--plot` draws the CPU seconds of the stages; it needs matplotlib (`pip install matplotlib`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from build_commands import command_rows

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path[:0] = [str(EXAMPLES), str(Path(__file__).parent)]

MODELS = {
    "mobilenet_v2": EXAMPLES / "mobilenet_v2.py",
    "efficientnet_lite0": EXAMPLES / "efficientnet_lite0.py",
    "resnet18": EXAMPLES / "resnet18.py",
    "mobilenet_v3": Path(__file__).parent / "mobilenet_v3.py",
    "encoder": Path(__file__).parent / "encoder.py",
}
PLAIN = "plain ExecuTorch .pte"
# What the plain flows do: ranges by a histogram, everything rounded to the nearest, nothing corrected.
PLAIN_QUANTIZATION = {
    "activation_observer": "histogram",
    "equalization": False,
    "bias_absorption": False,
    "concat_splitting": False,
    "channel_splitting": 0,
    "weight_rounding": "nearest",
    "bias_correction": False,
}
FLOWS_OF_OURS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "edgecompile .pte": (("pte",), PLAIN_QUANTIZATION),
    "edgecompile .pte .ptl .onnx": (("pte", "ptl", "onnx"), PLAIN_QUANTIZATION),
    "edgecompile .pte, equalized and corrected": (("pte",), {}),
}


_PROOF = ("float model", "layers", "reference", "run ", "goldens", "write")


class Clock:
    """Adds up CPU and wall seconds by stage: the time since the last `mark` belongs to the stage named."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._last = (0.0, time.perf_counter())

    def mark(self, stage: str) -> None:
        """Count what was spent since the last mark for a stage."""
        now = (time.process_time(), time.perf_counter())
        for index in (0, 1):
            self.stages[stage][index] += now[index] - self._last[index]
        self._last = now


class StageClock:
    """Receives a build's progress, and marks its stages."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stage = ""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage, and count what lies before it."""
        # Before the capture the model is made; what is between two stages belongs to quantization.
        between = "proof" if self._stage.startswith(_PROOF) else "quantize"
        self._clock.mark("model" if stage == "capture" else between if self._stage else "import")
        self._stage = stage

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self, detail: str = "") -> None:
        """Count the stage."""
        proof = self._stage.startswith(_PROOF)
        self._clock.mark("proof" if proof else self._stage)


def run_edgecompile(
    model: Path, data: Path, formats: tuple[str, ...], quantization: dict[str, Any], clock: Clock
) -> None:
    """Build with the public flow; its stages are timed through its progress."""
    import edgecompile.capture  # noqa: F401  torch, which a build imports when it has something to do
    from edgecompile.compile import build
    from edgecompile.settings import Options, resolve

    clock.mark("import")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGECOMPILE_CACHE"] = f"{folder}/cache"
        options = Options(
            target=("android-arm64",),
            format=formats,
            calibration=str(data),
            quantization=quantization,
            output=f"{folder}/bundle",
        )
        build(resolve(f"{model}:model", options, None), StageClock(clock))


def run_plain_executorch(model: Path, data: Path, clock: Clock) -> None:
    """ExecuTorch's documented way to an INT8 .pte for XNNPACK."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    clock.mark("import")
    module, inputs, samples = _model_and_samples(model, data)
    clock.mark("model")
    with torch.no_grad():
        exported = torch.export.export(module, inputs)
        clock.mark("capture")
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(exported.module(), quantizer)
        clock.mark("quantize")
        for sample in samples:
            prepared(sample)
        clock.mark("calibrate")
        exported = torch.export.export(convert_pt2e(prepared), inputs)
        clock.mark("quantize")
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        _ = bytes(edge.to_executorch().buffer)
        clock.mark("emit pte")


def run_plain_onnx(model: Path, data: Path, clock: Clock) -> None:
    """The documented way to an INT8 .onnx for ONNX Runtime."""
    import torch
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    clock.mark("import")
    module, inputs, samples = _model_and_samples(model, data)
    clock.mark("model")

    class Reader(CalibrationDataReader):
        rows = iter([{"x": sample.numpy()} for sample in samples])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{name}.onnx" for name in ("float", "prepared", "int8")]
        torch.onnx.export(module, inputs, paths[0], dynamo=True, input_names=["x"], verbose=False)
        clock.mark("capture")
        quant_pre_process(paths[0], paths[1])
        quantize_static(paths[1], paths[2], Reader(), per_channel=True)
        clock.mark("quantize")


def _model_and_samples(model: Path, data: Path) -> tuple[Any, tuple[Any, ...], list[Any]]:
    import numpy as np
    import torch

    module, inputs = _load(model)
    (stacked,) = np.load(data).values()
    return module.eval(), inputs, [torch.from_numpy(sample[None]) for sample in stacked]


def _load(model: Path) -> tuple[Any, tuple[Any, ...]]:
    from importlib import import_module

    loaded: tuple[Any, tuple[Any, ...]] = import_module(model.stem).model()
    return loaded


FLOWS: dict[str, Callable[[Path, Path, Clock], None]] = {
    PLAIN: run_plain_executorch,
    "plain ONNX Runtime": run_plain_onnx,
    **{
        name: lambda model, data, clock, own=own: run_edgecompile(model, data, *own, clock)
        for name, own in FLOWS_OF_OURS.items()
    },
}


def run_once(flow: str, model: Path, data: Path) -> None:
    """Run one flow in this process and print what it cost as one line of JSON."""
    clock = Clock()
    FLOWS[flow](model, data, clock)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    clock.stages["other processes"][0] = children.ru_utime + children.ru_stime
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"stages": clock.stages, "peak_mb": peak_mb}))


def write_samples(model: Path, folder: Path | None, count: int, file: Path) -> None:
    """Write the calibration samples of a model: pictures where it takes pictures, else seeded noise."""
    import numpy as np
    from PIL import Image

    (example,) = _load(model)[1]
    shape = tuple(example.shape[1:])
    generator = np.random.default_rng(0)
    samples = [generator.standard_normal(shape, np.float32) for _ in range(count)]
    if folder is not None and len(shape) == 3:
        names = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))
        pictures = [Image.open(path).convert("RGB").resize(shape[:0:-1]) for path in names[:count]]
        samples = [np.float32(picture).transpose(2, 0, 1) / 127.5 - 1 for picture in pictures]
    np.savez(file, np.stack(samples))


def measure(flow: str, model: Path, data: Path) -> dict[str, Any]:
    """Run a flow in a fresh process; a flow that fails says so."""
    command = [sys.executable, __file__, "--run", flow, str(model), str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        lines = [line for line in child.stderr.splitlines() if line.strip()]
        return {"failure": lines[-1] if lines else f"exit code {child.returncode}"}
    result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return result


def seconds(run: dict[str, Any], index: int, *without: str) -> float:
    """Return a run's CPU (0) or wall (1) seconds, without some of its stages."""
    return sum(pair[index] for stage, pair in run["stages"].items() if stage not in without)


def rows(model: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the table's rows of one model."""

    def median(flow: str, index: int, *without: str) -> float:
        return statistics.median(seconds(run, index, *without) for run in runs[flow])

    has_plain = all("failure" not in run for run in runs[PLAIN])
    plain = [median(PLAIN, index, "model") for index in (0, 1)] if has_plain else None
    found = []
    for flow, own in runs.items():
        failures = [run["failure"] for run in own if "failure" in run]
        if failures:
            found.append(f"| {model} | {flow} | failed: {failures[0]} | - | - | - | - |")
            continue
        peak = statistics.median(run["peak_mb"] for run in own)
        ways = [(flow, ("model", "proof"))]
        if flow in FLOWS_OF_OURS:
            ways.append((f"{flow} and proof", ("model",)))
        for name, without in ways:
            cpu, wall = median(flow, 0, *without), median(flow, 1, *without)
            ratios = f"{cpu / plain[0]:.2f} | {wall / plain[1]:.2f}" if plain else "- | -"
            found.append(f"| {model} | {name} | {cpu:.1f} | {wall:.1f} | {ratios} | {peak:.0f} |")
    return found


def stage_rows(model: str, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return one row for each stage of each flow of one model: median CPU seconds."""
    return [
        f"| {model} | {flow} | {stage} | {statistics.median(run['stages'][stage][0] for run in own):.2f} |"
        for flow, own in runs.items()
        if all("failure" not in run for run in own)
        for stage in own[0]["stages"]
        if stage != "model"
    ]


def plot(stages: dict[str, dict[str, dict[str, float]]], file: Path) -> None:
    """Draw the CPU seconds of each flow's stages, one group of bars a model."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"  # letters as text, not as drawings
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * sum(map(len, stages.values())) + 1.2))
    order = [
        "import",
        "capture",
        "passes",
        "calibrate",
        "quantize",
        "emit pte",
        "emit ptl",
        "emit onnx",
        "other processes",
        "proof",
    ]
    colours = dict(zip(order, pyplot.get_cmap("tab10").colors, strict=False))
    labels, seen = [], set()
    for model, flows in stages.items():
        for flow, seconds_of in flows.items():
            left = 0.0
            for stage in order:
                width = sum(value for name, value in seconds_of.items() if name.startswith(stage))
                label = stage if width and stage not in seen else None
                seen |= {stage} if label else set()
                axes.barh(len(labels), width, left=left, color=colours[stage], label=label)
                left += width
            axes.text(left, len(labels), f" {left:.1f}", va="center", fontsize=8)
            labels.append(f"{model}: {flow}")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("CPU seconds, cold, on one thread")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(file)


def compare(
    models: Sequence[str], repeats: int, folder: Path | None, count: int, *, large: bool, figure: Path | None
) -> str:
    """Run all flows on all models in turn and return the tables in Markdown."""
    table, stages, commands = [], [], []
    drawn: dict[str, dict[str, dict[str, float]]] = {}
    for name in models:
        model = MODELS[name]
        runs: dict[str, list[dict[str, Any]]] = {flow: [] for flow in FLOWS}
        with tempfile.TemporaryDirectory() as temporary:
            data = Path(temporary) / "samples.npz"
            write_samples(model, folder, count, data)
            for repeat in range(repeats):
                for flow, own in runs.items():
                    print(f"{name}: {flow}, {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
                    own.append(measure(flow, model, data))
            if name == models[0]:
                commands += command_rows(name, f"{model}:model", str(data), repeats)
        table += rows(name, runs)
        stages += stage_rows(name, runs)
        drawn[name] = {
            flow: {
                stage: statistics.median(run["stages"][stage][0] for run in own)
                for stage in own[0]["stages"]
                if stage != "model"
            }
            for flow, own in runs.items()
            if all("failure" not in run for run in own)
        }
    if large:
        encoder = MODELS["encoder"]
        commands += command_rows("encoder, 302 M", f"{encoder}:large", f"{encoder}:samples", 1)
    if figure is not None:
        plot(drawn, figure)
    header = "| model | flow | CPU s | wall s | CPU, of plain | wall, of plain | peak MB |"
    lines = [header, "| --- | --- | --- | --- | --- | --- | --- |", *table, ""]
    header = "| model | command | CPU s | wall s | CPU, of one target | wall, of one target | peak MB |"
    lines += [header, "| --- | --- | --- | --- | --- | --- | --- |", *commands, ""]
    lines += ["| model | flow | stage | CPU s |", "| --- | --- | --- | --- |", *stages]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Compare the flows, or run one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="pictures; noise by default")
    parser.add_argument("--samples", type=int, default=48, help="calibration samples")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the stages, as .svg or .png")
    parser.add_argument("--large", action="store_true", help="build the 302-million-parameter encoder too")
    parser.add_argument("--run", nargs=3, metavar=("FLOW", "MODEL", "DATA"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        flow, model, data = arguments.run
        run_once(flow, Path(model), Path(data))
        return
    print(
        compare(
            arguments.models,
            arguments.repeats,
            arguments.data,
            arguments.samples,
            large=arguments.large,
            figure=arguments.plot,
        )
    )


if __name__ == "__main__":
    main()
