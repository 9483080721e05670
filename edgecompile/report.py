"""What was built, measured and declined, and why: as text for people and JSON for tools."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.artifact import Artifact
from edgecompile.budget import MixedPrecision
from edgecompile.compare import Closeness
from edgecompile.decibels import storable
from edgecompile.evaluate import Quality
from edgecompile.finding import Finding
from edgecompile.input_range import InputRange
from edgecompile.layer_costs import CostReport
from edgecompile.layer_quality import LayerReport
from edgecompile.mixed_precision_text import mixed_precision_text
from edgecompile.program import Declined, QuantizedProgram
from edgecompile.pruning.pruning_report import PruningReport
from edgecompile.pruning.pruning_text import pruning_text
from edgecompile.pruning.sparsity_report import SparsityReport
from edgecompile.sensitivity import SensitivityReport
from edgecompile.sensitivity_text import sensitivity_text
from edgecompile.text_table import render, table
from edgecompile.why_not import WhyNot, to_dicts, why_not_rows
from edgecompile.why_not_text import why_not_text


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of one bundle.

    Attributes:
        artifacts: What was emitted.
        declined: What each format runs slower than it could, and why.
        layers: How good each layer is.
        costs: What each layer costs.
        sensitivity: What the rounding of each layer costs; None where that was not measured.
        mixed_precision: What stays in float so that a budget holds; None where there is none.
        pruning: What was removed; None where nothing is.
        sparsity: What was zeroed; None where nothing is.
        samples: How many samples the quality was measured on.
        data: Where these come from.
        data_sha256: Of these samples and their labels.
        calibration_sha256: Of what the ranges are from; None where nothing calibrated.
        findings: What is odd about the data and what calibration saw.
        input_ranges: Of each quantized input, beside these samples.
    """

    program: QuantizedProgram
    target: str
    artifacts: tuple[Artifact, ...]
    declined: dict[str, tuple[Declined, ...]]
    quality: tuple[Quality, ...]
    layers: LayerReport
    costs: CostReport
    sensitivity: SensitivityReport | None
    mixed_precision: MixedPrecision | None
    pruning: PruningReport | None
    sparsity: SparsityReport | None
    samples: int
    data: str
    data_sha256: str
    calibration_sha256: str | None
    findings: tuple[Finding, ...]
    input_ranges: tuple[InputRange, ...]

    def text(self) -> str:
        """Return report.txt."""
        layers = sum(step.rewrites for step in self.program.steps if step.name == "quantize")
        head = f"{self.program.name} for {self.target}, {self.program.precision}"
        if layers:
            head += f", {layers} quantized layers"
        if self.program.precision == "int8":
            head += f", {len(self.program.unquantized)} operators in float"
        parts = [
            head + "\n",
            render(self._artifact_table()),
            render(quality_table(self.quality)),
            f"  measured on {self.samples} samples of {self.data}, each artifact in its engine on this host\n"
            "  (in brackets: the integer-exact reference in that engine's arithmetic; identical: output\n"
            f"  elements that are equal to it to the bit{self._what_float_is()})\n",
        ]
        changed = [] if self.pruning is None else [pruning_text(self.pruning)]
        changed += [] if self.sparsity is None else [self.sparsity.text()]
        parts[1:1] = changed
        if self.mixed_precision is not None:
            parts.append(mixed_precision_text(self.mixed_precision))
        if self.input_ranges:
            parts.append(render(self._input_table()))
        if self.findings:
            parts += ["findings\n", render(self._finding_table())]
        parts.append(render(self._step_table()))
        missed = [f"  {row.name}: {text}" for row in self.quality for text in row.missed]
        if missed:
            parts.append("thresholds of the target that are missed\n" + "\n".join(missed) + "\n")
        if self.layers.first_fall is not None:
            parts.append(self.layers.fall_text() + "\n")
        if self.sensitivity is not None:
            parts.append(sensitivity_text(self.sensitivity))
        why_not = self.why_not()
        if why_not:
            parts += ["not done, and why\n", why_not_text(why_not)]
        return "\n".join(parts)

    def json(self) -> str:
        """Return report.json."""
        document = {
            "name": self.program.name,
            "target": self.target,
            "precision": self.program.precision,
            "samples": self.samples,
            "data": self.data,
            "float_weight_bytes": self._float_bytes(),
            "artifacts": [
                {
                    "format": item.format,
                    "engine": item.engine,
                    "size_bytes": item.size_bytes,
                    "operators": item.operators,
                    "delegates": item.delegates,
                }
                for item in self.artifacts
            ],
            "quality": [quality_dict(row) for row in self.quality],
            "data_sha256": self.data_sha256,
            "calibration_sha256": self.calibration_sha256,
            "scores": {
                row.name: dataclasses.asdict(row.scores) for row in self.quality if row.scores is not None
            },
            "layers": self.layers.to_dict(),
            "costs": self.costs.to_dict(),
            "sensitivity": None if self.sensitivity is None else self.sensitivity.to_dict(),
            "mixed_precision": None if self.mixed_precision is None else self.mixed_precision.to_dict(),
            "pruning": None if self.pruning is None else self.pruning.to_dict(),
            "sparsity": None if self.sparsity is None else self.sparsity.to_dict(),
            "input_ranges": [dataclasses.asdict(row) for row in self.input_ranges],
            "findings": [dataclasses.asdict(row) for row in self.findings],
            "steps": [dataclasses.asdict(step) for step in self.program.steps],
            "why_not": to_dicts(self.why_not()),
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    def why_not(self) -> list[WhyNot]:
        """Return everything that was not done, in the order of the build."""
        return why_not_rows(self.program, self.declined, self.costs.macs)

    def _float_bytes(self) -> int:
        return self.program.float_weight_bytes

    def _what_float_is(self) -> str:
        if self.sparsity is not None:
            return "; float: the model with zeros"
        return "" if self.pruning is None else "; float: the pruned model"

    def _artifact_table(self) -> Table:
        rows = table("artifact", "engine", "size", "of float weights", "delegate calls")
        for item in self.artifacts:
            share = item.size_bytes / max(self._float_bytes(), 1)
            calls = ", ".join(f"{count} {name}" for name, count in item.delegates.items())
            rows.add_row(
                item.path,
                f"{item.engine} {item.engine_version}",
                f"{item.size_bytes / 1e6:.2f} MB",
                f"{share:.1%}",
                calls or "-",
            )
        return rows

    def _input_table(self) -> Table:
        rows = table("input", "calibrated range", "in these samples", "elements outside")
        for row in self.input_ranges:
            rows.add_row(
                row.name,
                f"{row.low:.4g} to {row.high:.4g}",
                f"{row.seen_low:.4g} to {row.seen_high:.4g}",
                _percent(row.outside),
            )
        return rows

    def _finding_table(self) -> Table:
        rows = table("what", "where", "finding")
        for row in self.findings:
            rows.add_row(*(Text(cell) for cell in (row.what, row.where, row.text)))
        return rows

    def _step_table(self) -> Table:
        rows = table("step", "seconds", "nodes before", "after", "rewrites", "declined")
        for step in self.program.steps:
            rows.add_row(
                step.name,
                f"{step.seconds:.2f}",
                str(step.nodes_before),
                str(step.nodes_after),
                str(step.rewrites),
                str(len(step.declined)),
            )
        return rows


def quality_table(rows: Sequence[Quality]) -> Table:
    """Return one row a program or artifact; in brackets what its reference has."""
    with_accuracy = any(row.accuracy is not None for row in rows)
    columns = ["", "SQNR", "max abs error", "top-1 as float", "identical"]
    filled = table(*columns, *(["top-1"] if with_accuracy else []))
    for row in rows:
        own, reference = row.against_float, row.reference
        cells = [
            row.name,
            *(_beside(show, own, reference) for show in (_sqnr, _max_error, _agreement)),
            _percent(row.identical),
        ]
        filled.add_row(*cells, *([_percent(row.accuracy)] if with_accuracy else []))
    return filled


def _beside(show: Callable[[Closeness], str], own: Closeness | None, reference: Closeness | None) -> str:
    if own is None:
        return "-"
    return show(own) if reference is None else f"{show(own)} ({show(reference)})"


def _sqnr(found: Closeness) -> str:
    return "exact" if found.sqnr_db == math.inf else f"{found.sqnr_db:.2f} dB"


def _max_error(found: Closeness) -> str:
    return f"{found.max_abs_error:.4g}"


def _agreement(found: Closeness) -> str:
    return _percent(found.agreement)


def quality_dict(row: Quality) -> dict[str, Any]:
    """Return a row as JSON's types, without single samples; SQNRs as `decibels.py` stores them."""
    document = dataclasses.asdict(row)
    del document["scores"]
    for found in (document["against_float"], document["reference"]):
        if found is not None:
            found["sqnr_db"] = storable(found["sqnr_db"])
    return document


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
