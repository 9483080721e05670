"""Size and quality of a small transformer in every precision and format: the table in docs/quantization.md.

    python benchmarks/precisions.py --output FOLDER [--target linux-arm64] [--instructions]

FOLDER gets a bundle for each precision. With --instructions, an emulated core counts what it executes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from edgecompile.bench_instructions import bench_instructions
from edgecompile.compile import build
from edgecompile.connect import counting_emulator
from edgecompile.contender import find_contenders
from edgecompile.program import Precision
from edgecompile.progress import QuietProgress
from edgecompile.settings import Options, resolve
from edgecompile.target import load_target

MODEL = Path(__file__).with_name("encoder.py")
CPU = "cortex-a76"
COLUMNS = (
    "precision",
    "format",
    "size KB",
    "% of FP32",
    "SQNR dB (reference)",
    f"instructions on {CPU}",
    "% of FP32",
)


def built(precision: Precision, target: str, output: Path) -> Path:
    """Build the network in one precision, in the formats that can take it; return the bundle."""
    emit = load_target(target).emit
    flags = Options(
        target=(target,),
        format=tuple(name for name, item in emit.items() if precision in item.precisions),
        precision=precision,
        calibration=f"{MODEL}:calibration",
        evaluation=f"{MODEL}:evaluation",
        output=str(output / precision),
    )
    (bundle,) = build(resolve(f"{MODEL}:model", flags))
    return bundle.path


def instructions_of(bundle: Path) -> dict[str, float]:
    """Return the executed instructions of one inference, by format."""
    with counting_emulator(cpu=CPU) as emulator:
        contenders, _ = find_contenders([bundle], (), emulator, QuietProgress())
        found = bench_instructions(contenders, emulator, repeats=2, progress=QuietProgress())
    return {row.contender.artifact.format: row.per_inference for row in found.counted}


def rows_of(
    report: dict[str, Any], counted: dict[str, float], base: dict[str, dict[str, float]]
) -> list[str]:
    """Return the table's rows of one precision; `base` has what FP32 takes."""
    quality = {row["name"]: row for row in report["quality"]}
    rows = []
    for item in report["artifacts"]:
        name, size = item["format"], item["size_bytes"]
        row = quality[name]
        found, reference = row["against_float"]["sqnr_db"], row["reference"]["sqnr_db"]
        executed = counted.get(name)
        cells = [
            report["precision"],
            name,
            f"{size / 1e3:.0f}",
            f"{size / base['size'][name]:.1%}",
            f"{_decibels(found)} ({_decibels(reference)})",
            f"{executed / 1e6:.2f} M" if executed else "-",
            f"{executed / base['instructions'][name]:.1%}" if executed else "-",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _decibels(sqnr_db: float | None) -> str:
    return "equal" if sqnr_db is None else f"{sqnr_db:.1f}"


def main() -> None:
    """Print a Markdown table, FP32 first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", default="linux-arm64")
    parser.add_argument("--instructions", action="store_true")
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")
    base: dict[str, dict[str, float]] = {}
    for precision in reversed(get_args(Precision)):
        bundle = built(precision, options.target, options.output)
        report = json.loads((bundle / "report.json").read_text())
        counted = instructions_of(bundle) if options.instructions else {}
        if not base:
            sizes = {item["format"]: item["size_bytes"] for item in report["artifacts"]}
            base = {"size": sizes, "instructions": counted}
        print("\n".join(rows_of(report, counted, base)), flush=True)


if __name__ == "__main__":
    main()
