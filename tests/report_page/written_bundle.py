"""Bundles whose report says what a test wants: as on disk after a build, without one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from edgecompile.artifact import (
    REPORT,
    SCHEMA_VERSION,
    Artifact,
    Manifest,
    SettingEntry,
    TensorEntry,
    sha256,
    write_manifest,
)
from edgecompile.budget import KeptLayer, MixedPrecision, Trial
from edgecompile.finding import Finding
from edgecompile.input_range import InputRange
from edgecompile.layer_costs import LayerCost, cost_report
from edgecompile.layer_quality import LayerQuality, layer_report
from edgecompile.program import StepRecord
from edgecompile.pruning.pruning_report import Cost, GroupRow, PruningReport, RecoveryRow
from edgecompile.pruning.sparsity_report import CompressedArtifact, SparseLayer
from edgecompile.report_document import (
    ArtifactRow,
    ClosenessRow,
    QualityRow,
    ReportDocument,
    SparsityDocument,
)
from edgecompile.sensitivity import PartSensitivity, SensitivityReport
from edgecompile.why_not import WhyNot

ENGINES = {"pte": "executorch", "ptl": "torchscript-lite", "onnx": "onnxruntime"}


def quality_row(name: str, sqnr_db: float | None = 30.5, missed: tuple[str, ...] = ()) -> QualityRow:
    close = ClosenessRow(sqnr_db=sqnr_db, max_abs_error=0.25, agreement=0.96)
    return QualityRow(
        name=name,
        against_float=close,
        accuracy=0.8,
        reference=close,
        identical=0.99,
        as_here=None,
        missed=missed,
    )


def full_report(count: int = 12, name: str = "net", label: str = "conv2d", **changes: Any) -> ReportDocument:
    """Return a report with everything in it, of so many layers; `label` begins each layer's name."""
    names = [f"{label}_{index}" for index in range(count)]
    layers = [
        LayerQuality(
            name=each,
            kind="conv2d",
            where="net.py:7",
            inputs=("x",),
            sqnr_db=40 - index % 20,
            own_sqnr_db=45 - index % 7,
            minimum=-1.5,
            maximum=2.0 + index,
            clipped_share=0.001 * (index % 5),
            scale=0.02,
            zero_point=-3,
        )
        for index, each in enumerate(names)
    ]
    layers.append(
        LayerQuality(name="softmax", kind="softmax", where="net.py:9", inputs=(), reason="no kernel for it")
    )
    costs = [
        LayerCost(
            name=each,
            kind="conv2d",
            where="net.py:7",
            macs=1000 * index,
            parameters=10 + index,
            weight_bytes=10 + index,
        )
        for index, each in enumerate(names)
    ]
    parts = [
        PartSensitivity(
            name=each,
            kind="conv2d",
            where="net.py:7",
            alone_sqnr_db=30.0 + index,
            has_weights=True,
            weights_sqnr_db=33.0 + index,
            without_sqnr_db=31.0,
            alone_accuracy=0.8,
            without_accuracy=0.79,
        )
        for index, each in enumerate(names)
    ]
    trials = [
        Trial(layers=tuple(names[:kept]), sqnr_db=20.0 + 3 * kept, accuracy_drop=2.0 - kept, holds=kept > 1)
        for kept in (0, 3, 2, 1)
    ]
    groups = [
        GroupRow(
            name=each,
            layers=(each,),
            where="net.py:7",
            width=16,
            units=16,
            removable=12,
            left=10 + index % 6,
            macs=1000,
            parameters=100,
            reasons=("it is an output",),
        )
        for index, each in enumerate(names)
    ]
    recovery = (RecoveryRow(step="removed", sqnr_db=9.0, agreement=0.5, accuracy=0.4),)
    report = ReportDocument(
        name=name,
        target="android-arm64",
        precision="int8",
        samples=100,
        data="data.py:evaluation",
        float_weight_bytes=40_000,
        artifacts=tuple(
            ArtifactRow(
                format=each, engine=engine, size_bytes=len(each), operators={"conv2d": count}, delegates={}
            )
            for each, engine in ENGINES.items()
        ),
        quality=(
            QualityRow(
                name="float",
                against_float=None,
                accuracy=0.82,
                reference=None,
                identical=None,
                as_here=None,
                missed=(),
            ),
            dataclasses.replace(quality_row("reference"), reference=None, identical=None),
            *map(quality_row, ENGINES),
        ),
        layers=layer_report(layers, samples=4),
        costs=cost_report(costs),
        sensitivity=SensitivityReport(
            samples=32, sqnr_db=29.0, float_accuracy=0.82, accuracy=0.8, rows=tuple(parts)
        ),
        mixed_precision=MixedPrecision(
            budget="an SQNR of at least 25 dB",
            quantizable=count,
            layers=tuple(KeptLayer(name=each, kind="conv2d", where="", mac_share=0.1) for each in names[:2]),
            nodes=tuple(names[:2]),
            trials=tuple(trials),
        ),
        pruning=PruningReport(
            measure="macs",
            wanted=0.2,
            removed=0.21,
            before=Cost(macs=80_000, parameters=300),
            after=Cost(macs=66_000, parameters=186),
            prunable=70_000,
            proof_samples=8,
            proof_error=1e-7,
            accuracy=0.83,
            recovery=recovery,
            groups=tuple(groups),
        ),
        sparsity=SparsityDocument(
            wanted="2:4",
            share=0.5,
            accuracy=0.83,
            recovery=recovery,
            zeroed=0.5,
            found=0.55,
            layers=(
                SparseLayer(name=names[0], where="", shape=(8, 3, 3, 3), weights=216, zeros=108, found=None),
            ),
            artifacts=(
                CompressedArtifact(
                    format="pte",
                    engine="executorch",
                    size_bytes=3,
                    compressed_bytes=2,
                    sparse_kernels="not asked for",
                ),
            ),
        ),
        input_ranges=(InputRange(name="x", low=-2, high=2.5, seen_low=-2.1, seen_high=2.6, outside=0.003),),
        findings=(
            Finding(
                code="few-calibration-samples", what="data.py:calibration", text="It has 3 samples only."
            ),
        ),
        steps=(
            StepRecord(name="capture", seconds=1.5, nodes_before=60, nodes_after=50, rewrites=10),
            StepRecord(name="quantize", seconds=0.5, nodes_before=50, nodes_after=120, rewrites=count),
        ),
        why_not=(
            WhyNot(
                stage="quantize",
                what="softmax (softmax)",
                where="net.py:9",
                reason="no kernel for it",
                change="leave it out",
                moved_bytes=2500,
                timed_as="softmax",
            ),
            WhyNot(
                stage="emit pte",
                what="aten::bmm (matmul)",
                where="net.py:8",
                reason="outside",
                macs_share=0.125,
                timed_as="bmm",
            ),
        ),
    )
    return dataclasses.replace(report, **changes)


def write_bundle(folder: Path, report: ReportDocument | dict[str, Any]) -> Path:
    """Write a bundle around a report, with artifacts of a few bytes, and return its folder."""
    document = report if isinstance(report, dict) else dataclasses.asdict(report)
    folder.mkdir(parents=True)
    contents = {f"net.{name}": f"{name} {folder.name}".encode() for name in ENGINES}
    contents[REPORT] = json.dumps(document).encode()
    for path, data in contents.items():
        (folder / path).write_bytes(data)
    x = TensorEntry(name="x", shape=(None, 3, 8, 8), dtype="float32", scale=0.02, zero_point=0)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        edgecompile_version="0.1.0",
        name=document["name"],
        target="android-arm64",
        precision="int8",
        inputs=(x,),
        outputs=(dataclasses.replace(x, name="output", shape=(None, 10)),),
        artifacts=tuple(
            Artifact(
                format=name,
                engine=engine,
                engine_version="1.0",
                path=f"net.{name}",
                size_bytes=len(contents[f"net.{name}"]),
                sha256=sha256(contents[f"net.{name}"]),
                operators={"conv2d": 3},
                delegates={"xnnpack": 1} if name == "pte" else {},
            )
            for name, engine in ENGINES.items()
        ),
        goldens=1,
        files={path: sha256(data) for path, data in contents.items()},
        toolchain={"torch": "2.13.0", "numpy": "2.4.0"},
        settings=(
            SettingEntry(name="model", value="net.py:make", origin="argument"),
            SettingEntry(name="output", value=folder.name, origin="flag --output"),
        ),
    )
    write_manifest(folder, manifest)
    return folder


def measured_row(folder: Path, name: str = "pte", precision: str = "int8") -> dict[str, Any]:
    """Return how a benchmark's document names an artifact of a bundle."""
    data = (folder / f"net.{name}").read_bytes()
    return {
        "artifact": f"{folder.name}/net.{name}",
        "bundle": str(folder),
        "format": name,
        "engine": ENGINES[name],
        "precision": precision,
        "size_bytes": len(data),
        "sha256": sha256(data),
    }


def times(*rows: dict[str, Any], connection: str = "ssh:board") -> dict[str, Any]:
    """Return the document of `bench --per-op --json`; each artifact is slower by half than the one before."""
    latency = {"min": 1.0, "p50": 2.0, "p90": 2.5, "p99": 3.0, "mean": 2.1, "stddev": 0.1}
    kinds = [{"name": "Conv (NHWC) GEMM", "calls": 12, "milliseconds": 1.5, "share": 0.75}]
    return {
        "connection": connection,
        "threads": 1,
        "rounds": 10,
        "artifacts": [
            row
            | {
                "latency_ms": {key: value * 1.5**index for key, value in latency.items()},
                "iterations": 100,
                "ratio": {"median": 1.5**index, "low": 1.4**index, "high": 1.6**index},
                "load_ms": 3.0,
                "first_inference_ms": 4.0,
                "peak_memory_bytes": 10**7,
                "model_memory_bytes": 10**6,
                "cpu": {"features": [], "frequencies_khz": [], "governor": None, "temperature_celsius": None},
            }
            for index, row in enumerate(rows)
        ],
        "operators": {row["artifact"]: {"kinds": kinds, "operators": kinds} for row in rows},
        "trace": "trace.json",
        "notes": [],
    }


def counts(*rows: dict[str, Any]) -> dict[str, Any]:
    """Return the document of `bench --instructions --json`; each artifact executes twice the one before."""
    return {
        "connection": "emulator (cortex-a76)",
        "threads": 1,
        "artifacts": [
            row
            | {
                "instructions": {
                    "load": 5_000_000,
                    "per_inference": 51_400_000 * 2**index,
                    "spread": 0.0,
                    "repeats": [{"load": 5_000_000, "iterations": [51_400_000 * 2**index]}],
                }
            }
            for index, row in enumerate(rows)
        ],
        "notes": [],
    }


def validated(folder: Path, *, passed: bool = True) -> dict[str, Any]:
    """Return the document of `validate --json`."""
    layer = {
        "name": "conv2d_0",
        "kind": "conv2d",
        "where": "net.py:7",
        "exact": True,
        "identical": 1.0 if passed else 0.5,
        "within": 1.0,
        "largest_step": 0 if passed else 9,
        "passed": passed,
    }
    return {
        "bundle": str(folder),
        "samples": 8,
        "artifacts": {name: measured_row(folder, name)["sha256"] for name in ENGINES},
        "passed": passed,
        "notes": [],
        "quality": [dataclasses.asdict(quality_row("pte"))],
        "layers": {"pte": [layer]},
    }


def write_document(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path
