"""Builds and validates one network of the zoo, and prints its lines for zoo.jsonl; `zoo.py` calls it.

python benchmarks/zoo_build.py NAME FOLDER [--plain]
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from zoo_pairs import pairs_around
from zoo_table import FORMATS

from edgecompile.artifact import load_bundle
from edgecompile.compile import build
from edgecompile.errors import EdgecompileError
from edgecompile.report_document import ReportDocument, read_report
from edgecompile.settings import Options, resolve
from edgecompile.validate import Validation, validate

NETWORKS = Path(__file__).with_name("zoo_networks.py")
TARGET = "android-arm64"
# What makes a build of random weights quick: nothing of it changes what is captured, fused or delegated.
PLAIN = {
    "equalization": False,
    "bias_absorption": False,
    "bias_correction": False,
    "weight_rounding": "nearest",
    "activation_observer": "min-max",
    "calibration_samples": 2,
}


def lines_of(name: str, folder: Path, *, plain: bool) -> list[dict[str, Any]]:
    """Return a line for each format; those that cannot be built do not keep the others from it."""
    try:
        bundle = _built(name, folder, FORMATS, plain)
        return _lines(name, bundle, FORMATS)
    except EdgecompileError:
        pass
    except Exception:  # of ours: say which format it is
        traceback.print_exc()
    found = []
    for item in FORMATS:
        try:
            found += _lines(name, _built(name, folder, (item,), plain), (item,))
        except EdgecompileError as error:
            found.append(_failure(name, item, error.exit_status, error.code, error.render()))
        except Exception as error:
            said = traceback.format_exc()
            found.append(_failure(name, item, 70, type(error).__name__, f"{error}\n{said}"))
    return found


def _built(name: str, folder: Path, formats: tuple[str, ...], plain: bool) -> Path:
    options = Options(
        target=(TARGET,),
        format=formats,
        calibration=f"{NETWORKS}:{name}__samples",
        output=str(folder),
        quantization=PLAIN if plain else {"calibration_samples": 4, "correction_samples": 4},
        jobs=1,
    )
    (bundle,) = build(resolve(f"{NETWORKS}:{name}", options))
    return bundle.path


def _failure(name: str, form: str, status: int, code: str, text: str) -> dict[str, Any]:
    first = next((line for line in text.splitlines() if line.strip()), code)
    return {
        "model": name,
        "format": form,
        "status": status,
        "code": code,
        "error": first,
        "log": text[-4000:],
    }


def _lines(name: str, path: Path, formats: tuple[str, ...]) -> list[dict[str, Any]]:
    report = read_report(load_bundle(path))
    validation = validate(path)
    return [_line(name, path, report, validation, item) for item in formats]


def _line(name: str, path: Path, report: ReportDocument, validation: Validation, form: str) -> dict[str, Any]:
    artifact = next(item for item in report.artifacts if item.format == form)
    row = next(item for item in validation.quality if item.name.startswith(form))
    layers = next((rows for key, rows in validation.layers.items() if key.startswith(form)), ())
    left_in_float = [item for item in report.why_not if item.stage == "quantize"]
    outside = [item for item in report.why_not if item.stage == f"emit {form}"]
    return {
        "model": name,
        "format": form,
        "status": 0,
        "parameters": report.float_weight_bytes // 4,
        "rewrites": {step.name: step.rewrites for step in report.steps if step.rewrites},
        "nodes": report.steps[-1].nodes_after,
        "quantized": len(report.layers.rows),
        "float": dict(Counter(f"{_operator(item.what)}: {item.reason}" for item in left_in_float)),
        "outside": dict(Counter(f"{_operator(item.what)}: {item.reason}" for item in outside)),
        "delegate_calls": sum(artifact.delegates.values()),
        "operators": artifact.operators,
        "pairs": dict(pairs_around(path)),
        "size_bytes": artifact.size_bytes,
        "sqnr_db": row.against_float.sqnr_db if row.against_float else None,
        "reference_sqnr_db": row.reference.sqnr_db if row.reference else None,
        "layers": len(layers),
        "layers_failed": [f"{item.name} ({item.kind})" for item in layers if not item.passed],
        "missed": list(row.missed),
    }


def _operator(what: str) -> str:
    return what.split(" ", maxsplit=1)[0]


if __name__ == "__main__":
    network, output, *rest = sys.argv[1:]
    print(json.dumps(lines_of(network, Path(output), plain="--plain" in rest)))
