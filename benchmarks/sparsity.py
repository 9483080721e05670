"""What zeros in weights cost and bring, on the digits example: the table in docs/pruning.md.

    python benchmarks/sparsity.py --output FOLDER [--precision int8] [--sparsity 0.5 --sparsity 2:4]
        [--rounds 10] [--seconds 0.3]

FOLDER gets a bundle for each sparsity, the dense one first. The artifacts of a format are timed in turns with
the dense one, in native runners on this host; ratios are to the dense one.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

from edgecompile.artifact import Bundle
from edgecompile.bench import Ratio, bench
from edgecompile.compile import build
from edgecompile.connect import connect
from edgecompile.contender import EngineOptions, find_contenders
from edgecompile.progress import QuietProgress
from edgecompile.settings import Options, resolve

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits.py"
DENSE = "dense"
SPARSITIES = ("0.5", "0.8", "2:4")
COLUMNS = (
    "format",
    "sparsity",
    "zeros in the layers",
    "top-1",
    "top-1 without compensation, in float",
    "size KB",
    "compressed KB",
    "of dense",
    "latency by dense (quartiles)",
)


def built(sparsity: str, options: argparse.Namespace) -> Bundle:
    """Build the network with so many zeros."""
    flags = Options(
        target=(options.target,),
        precision=options.precision,
        calibration=f"{EXAMPLE}:calibration",
        evaluation=f"{EXAMPLE}:evaluation",
        sparsity=None if sparsity == DENSE else sparsity,
        output=str(options.output / sparsity.replace(":", "-")),
    )
    (bundle,) = build(resolve(f"{EXAMPLE}:model", flags))
    return bundle


def ratios(bundles: list[Bundle], name: str, options: argparse.Namespace) -> list[Ratio]:
    """Return the latency of each bundle's artifact of a format by that of the first one."""
    with connect("host") as connection:
        paths = [bundle.path for bundle in bundles]
        contenders, _ = find_contenders(paths, [name], connection, QuietProgress())
        measured = bench(
            contenders,
            connection,
            EngineOptions(),
            rounds=options.rounds,
            seconds=options.seconds,
            progress=QuietProgress(),
        )
    return [timing.ratio for _, timing in measured.timings]


def compressed_bytes(bundle: Bundle, name: str) -> int:
    """Return what a bundle's artifact of a format takes with zlib's level 9."""
    (item,) = (item for item in bundle.artifacts if item.format == name)
    return len(zlib.compress((bundle.path / item.path).read_bytes(), 9))


def row_of(bundle: Bundle, name: str, sparsity: str, ratio: Ratio, dense_bytes: int) -> str:
    """Return one row of the table."""
    report = bundle.report_dict()
    (quality,) = (row for row in report["quality"] if row["name"] == name)
    (item,) = (item for item in bundle.artifacts if item.format == name)
    zeros = report["sparsity"]
    compressed = compressed_bytes(bundle, name)
    cells = [
        name,
        sparsity,
        f"{zeros['found']:.1%}" if zeros else "-",
        f"{quality['accuracy']:.1%}",
        f"{zeros['recovery'][0]['accuracy']:.1%}" if zeros else "-",
        f"{item.size_bytes / 1e3:.1f}",
        f"{compressed / 1e3:.1f}",
        f"{compressed / dense_bytes:.0%}",
        f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print a Markdown table, the dense artifact first in each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", default="linux-x86-64")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--sparsity", action="append", metavar="SHARE|N:M")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    chosen = [DENSE, *(options.sparsity or SPARSITIES)]
    bundles = [built(sparsity, options) for sparsity in chosen]
    print("| " + " | ".join(COLUMNS) + " |")
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")
    for name in (item.format for item in bundles[0].artifacts):
        dense_bytes = compressed_bytes(bundles[0], name)
        measured = ratios(bundles, name, options)
        for bundle, sparsity, ratio in zip(bundles, chosen, measured, strict=True):
            print(row_of(bundle, name, sparsity, ratio, dense_bytes), flush=True)


if __name__ == "__main__":
    main()
