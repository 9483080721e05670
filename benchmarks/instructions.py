"""Count executed instructions of INT8 against FP32 on emulated cores: the table in docs/bench.md.

    python benchmarks/instructions.py --bundles FOLDER [--cpus cortex-a53,cortex-a76] [--repeats 3]

FOLDER holds a pair of bundles for each model, as benchmarks/connections.py makes them:
NAME-int8/android-arm64 and NAME-fp32/android-arm64.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgecompile.bench_instructions import bench_instructions
from edgecompile.connect import counting_emulator
from edgecompile.contender import find_contenders
from edgecompile.progress import QuietProgress

TARGET = "android-arm64"
FORMATS = ("pte", "onnx")
COLUMNS = ("model", "core", "artifact", "per inference", "INT8 / FP32", "spread", "load")


def rows_of(name: str, folder: Path, cpu: str, repeats: int) -> list[str]:
    """Count one model on one core; return the table's rows, FP32 first."""
    bundles = [folder / f"{name}-{precision}" / TARGET for precision in ("fp32", "int8")]
    with counting_emulator(cpu=cpu) as emulator:
        contenders, _ = find_contenders(bundles, FORMATS, emulator, QuietProgress())
        found = bench_instructions(contenders, emulator, repeats=repeats, progress=QuietProgress())
    float_counts = {
        row.contender.artifact.format: row.per_inference
        for row in found.counted
        if row.contender.precision == "fp32"
    }
    rows = []
    for row in found.counted:
        base = float_counts.get(row.contender.artifact.format)
        int8 = row.contender.precision == "int8"
        cells = [
            name,
            cpu,
            f"{row.contender.precision} .{row.contender.artifact.format}",
            f"{row.per_inference / 1e6:.2f} M",
            f"{row.per_inference / base:.3f}" if int8 and base else "-",
            f"{row.spread:.4%}",
            f"{row.load / 1e6:.1f} M",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Print a Markdown table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True)
    parser.add_argument("--models", default="mobilenet_v2,efficientnet_lite0,resnet18")
    parser.add_argument("--cpus", default="cortex-a53,cortex-a76")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")
    for name in options.models.split(","):
        for cpu in options.cpus.split(","):
            print("\n".join(rows_of(name, options.bundles, cpu, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
