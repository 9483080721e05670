"""Measure what pruning costs and brings: the tables and the plot of docs/pruning.md.

    python benchmarks/pruning.py ratios --output FOLDER [--plot FILE]
    python benchmarks/pruning.py recovery --data FOLDER --output FOLDER [--importances NAME ...]
        [--ratio 0.2] [--minutes 10] [--rate 0.003]

`ratios` prunes the digits example by several shares of its MACs, in INT8: top-1 on the 1000 test digits,
sizes, the latency on this host (each as the median ratio to the whole network's, measured in turns) and the
instructions of one inference on an emulated Cortex-A76. `--plot` draws them; it needs matplotlib.

`recovery` prunes MobileNetV2 with its real weights; the folder of `--data` is that of `imagenet_sample.py`:
every fifth picture chooses and recovers, the others are evaluated. Its rows are the float program before any
recovery, after least squares and after distillation, then the INT8 artifacts' instructions beside those of
INT8 alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from edgecompile.bench import bench
from edgecompile.bench_instructions import bench_instructions
from edgecompile.compile import build
from edgecompile.connect import connect, counting_emulator
from edgecompile.contender import EngineOptions, find_contenders
from edgecompile.progress import QuietProgress
from edgecompile.settings import Options, resolve

EXAMPLES = Path(__file__).parent.parent / "examples"
CPU = "cortex-a76"
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
ROUNDS, SECONDS = 15, 0.2
SHARE_OF_MACS = 0.8  # so much of it must be gone of the instructions, too


class Clock:
    """Adds up the wall time of what pruning takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started, self._stage = 0.0, ""

    def start(self, stage: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._stage, self._started = stage, time.perf_counter()

    def advance(self, count: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def finish(self, detail: str = "") -> None:
        """Count the stage."""
        if self._stage.startswith(("importance", "fit layers", "recover")):
            self.seconds += time.perf_counter() - self._started


def built(model: str, target: str, output: Path, **options: Any) -> tuple[Path, dict[str, Any], float]:
    """Build an example in INT8; return the bundle, its report and the seconds that pruning took."""
    clock = Clock()
    said = {"target": (target,), "output": str(output), **options}
    (bundle,) = build(resolve(f"{EXAMPLES / model}.py:model", Options(**said), None), clock)
    return bundle.path, json.loads(bundle.read("report.json")), clock.seconds


def instructions_of(bundles: list[Path], formats: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """Return the instructions of one inference, by bundle and format."""
    with counting_emulator(cpu=CPU) as emulator:
        contenders, _ = find_contenders(bundles, formats, emulator, QuietProgress())
        found = bench_instructions(contenders, emulator, repeats=2, progress=QuietProgress())
    return {
        (str(row.contender.bundle), row.contender.artifact.format): row.per_inference for row in found.counted
    }


def latency_ratios(bundles: list[Path]) -> dict[str, float]:
    """Return the latency of each bundle's .pte on this host by that of the first, measured in turns."""
    with connect("host") as host:
        contenders, _ = find_contenders(bundles, ("pte",), host, QuietProgress())
        found = bench(
            contenders, host, EngineOptions(), rounds=ROUNDS, seconds=SECONDS, progress=QuietProgress()
        )
    return {str(contender.bundle): timing.ratio.median for contender, timing in found.timings}


def ratios(output: Path, figure: Path | None) -> None:
    """Print the table over ratios, and draw it."""
    data = {name: f"{EXAMPLES}/digits.py:{name}" for name in ("calibration", "evaluation")}
    rows: list[dict[str, Any]] = []
    emulated, on_host = [], []
    for ratio in RATIOS:
        pruned = {"prune": ratio} if ratio else {}
        folder = output / f"{ratio:g}"
        path, report, seconds = built("digits", "android-arm64", folder, cache=False, **data, **pruned)
        host, _, _ = built("digits", "linux-x86-64", folder, format=("pte",), **data, **pruned)
        emulated.append(path)
        on_host.append(host)
        quality = {row["name"]: row for row in report["quality"]}
        pruning = report["pruning"]
        last = pruning["recovery"][-1]["accuracy"] if pruning else quality["float"]["accuracy"]
        rows.append(
            {
                "ratio": ratio,
                "gone": pruning["removed"] if pruning else 0.0,
                "removed": pruning["recovery"][0]["accuracy"] if pruning else last,
                "float": last,
                "int8": quality["pte"]["accuracy"],
                "seconds": seconds,
                "sizes": {item["format"]: item["size_bytes"] for item in report["artifacts"]},
            }
        )
    counted = instructions_of(emulated, ("pte", "onnx"))
    timed = latency_ratios(on_host)
    print("| asked for | MACs gone | top-1, nothing recovered | recovered, float | INT8 `.pte` | seconds | "
          "`.pte` KB | `.onnx` KB | latency on host | instructions `.pte` | `.onnx` |")  # fmt: skip
    print("| " + " | ".join(["---"] * 11) + " |")
    for row, path, host in zip(rows, emulated, on_host, strict=True):
        shares = [counted[str(path), name] / counted[str(emulated[0]), name] for name in ("pte", "onnx")]
        row |= {"latency": timed[str(host)], "pte": shares[0], "onnx": shares[1]}
        print(
            f"| {row['ratio']:.1f} | {row['gone']:.1%} | {row['removed']:.1%} | {row['float']:.1%} | "
            f"{row['int8']:.1%} | {row['seconds']:.1f} | {row['sizes']['pte'] / 1e3:.1f} | "
            f"{row['sizes']['onnx'] / 1e3:.1f} | {row['latency']:.2f} | {shares[0]:.2f} | {shares[1]:.2f} |"
        )
    if figure is not None:
        plot(rows, figure)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw top-1 and what is left of the costs over the share of MACs that is gone."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"  # letters as text, not as drawings
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 6.4), sharex=True)
    gone = [row["gone"] * 100 for row in rows]
    for name, label in (
        ("removed", "float, nothing recovered"),
        ("float", "float, least squares"),
        ("int8", "INT8 .pte, least squares"),
    ):
        above.plot(gone, [row[name] * 100 for row in rows], marker="o", markersize=4, label=label)
    above.set_ylabel("top-1 on test digits, %")
    sizes = [row["sizes"]["pte"] / rows[0]["sizes"]["pte"] * 100 for row in rows]
    below.plot(gone, sizes, marker="o", markersize=4, label="size of the .pte")
    for name, label in (
        ("latency", "latency on host, .pte"),
        ("pte", "instructions on Cortex-A76, .pte"),
        ("onnx", "instructions on Cortex-A76, .onnx"),
    ):
        below.plot(gone, [row[name] * 100 for row in rows], marker="o", markersize=4, label=label)
    below.plot([0, 80], [100, 20], color="grey", linewidth=0.8, linestyle="--", label="MACs")
    below.set_ylabel("left of INT8 alone, %")
    below.set_xlabel("prunable MACs removed, %")
    below.set_ylim(0, 105)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file)


def recovery(arguments: argparse.Namespace) -> None:
    """Print what comes back of MobileNetV2, and the instructions of its INT8 artifacts."""
    from quantization import write_pictures

    arguments.output.mkdir(parents=True, exist_ok=True)
    calibration, evaluation = write_pictures(arguments.data, "mobilenet_v2", arguments.output)
    data = {"calibration": str(calibration), "evaluation": str(evaluation)}
    target, formats = "android-arm64", ("pte", "onnx")
    whole, _, _ = built("mobilenet_v2", target, arguments.output / "whole", format=formats, **data)
    print("| importance | program | SQNR dB | agreement | top-1 | of the lost top-1 back | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    bundles, gone = [], []
    for importance in arguments.importances:
        pruning: dict[str, Any] = {"importance": importance}
        if importance == arguments.importances[0]:
            pruning |= {
                "distillation_steps": 100_000,
                "distillation_minutes": arguments.minutes,
                "distillation_rate": arguments.rate,
            }
        path, report, seconds = built(
            "mobilenet_v2",
            target,
            arguments.output / importance,
            format=formats,
            prune=arguments.ratio,
            pruning=pruning,
            **data,
        )
        bundles.append(path)
        found = report["pruning"]
        gone.append(1 - found["after"]["macs"] / found["before"]["macs"])
        lost = found["accuracy"] - found["recovery"][0]["accuracy"]
        for row in found["recovery"]:
            back = (row["accuracy"] - found["recovery"][0]["accuracy"]) / lost if lost else 0.0
            print(
                f"| {importance} | {row['step']} | {row['sqnr_db']:.2f} | {row['agreement']:.2%} | "
                f"{row['accuracy']:.2%} | {back:.0%} | {seconds:.0f} |",
                flush=True,
            )
        quality = {row["name"]: row for row in report["quality"]}
        for name in formats:
            top1 = quality[name]["accuracy"]
            print(f"| {importance} | INT8 `.{name}` | | | {top1:.2%} | | |", flush=True)
    counted = instructions_of([whole, *bundles], formats)
    print("\n| importance | artifact | MACs gone | instructions gone | at least | holds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for importance, path, share in zip(arguments.importances, bundles, gone, strict=True):
        for name in formats:
            less = 1 - counted[str(path), name] / counted[str(whole), name]
            least = SHARE_OF_MACS * share
            print(f"| {importance} | `.{name}` | {share:.1%} | {less:.1%} | {least:.1%} | {less >= least} |")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    over = commands.add_parser("ratios")
    over.add_argument("--output", type=Path, required=True)
    over.add_argument("--plot", type=Path, metavar="FILE")
    back = commands.add_parser("recovery")
    back.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    back.add_argument("--output", type=Path, required=True)
    back.add_argument("--importances", nargs="+", default=["reconstruction", "taylor", "activation", "l2"])
    back.add_argument("--ratio", type=float, default=0.2)
    back.add_argument("--minutes", type=float, default=10)
    back.add_argument("--rate", type=float, default=0.003)
    arguments = parser.parse_args()
    if arguments.command == "ratios":
        ratios(arguments.output, arguments.plot)
    else:
        recovery(arguments)


if __name__ == "__main__":
    main()
