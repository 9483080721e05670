"""The program that every emitter lowers: passes, calibration and quantization, each kept by itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import Dataset, spread
from edgecompile.errors import CalibrationRequiredError
from edgecompile.finding import Finding
from edgecompile.program import CapturedProgram, Declined, QuantizedProgram
from edgecompile.stage_cache import HashedFile, Result, StageCache
from edgecompile.stages.captured import steps_of

if TYPE_CHECKING:
    import torch

    from edgecompile.program import Precision
    from edgecompile.quantize.static_int8 import Ranges
    from edgecompile.target import QuantizationSettings, Target


class Quantized:
    """Keeps a quantized program, or one that stays in float."""

    name = "quantize"

    def write(self, value: QuantizedProgram, file: HashedFile) -> dict[str, Any]:
        """Write the program and what stays in float; the summary has the times and the findings."""
        from edgecompile.program_entry import program_text
        from edgecompile.quantize.layers import constants_of
        from edgecompile.tensor_file import write_tensors

        document = {
            "name": value.name,
            "precision": value.precision,
            "program": program_text(value.exported),
            "float_weight_bytes": value.float_weight_bytes,
            "unquantized": [dataclasses.asdict(row) for row in value.unquantized],
        }
        write_tensors(file, constants_of(value.exported), json.dumps(document))
        return {
            "steps": [dataclasses.asdict(step) for step in value.steps],
            "findings": [dataclasses.asdict(row) for row in value.findings],
        }

    def read(self, path: Path, summary: dict[str, Any]) -> QuantizedProgram:
        """Return the program."""
        from edgecompile.program_entry import read_program
        from edgecompile.tensor_file import read_tensors

        constants, text = read_tensors(path)
        document = json.loads(text)
        return QuantizedProgram(
            name=document["name"],
            precision=document["precision"],
            exported=read_program(document["program"], constants),
            float_weight_bytes=document["float_weight_bytes"],
            unquantized=tuple(Declined(**row) for row in document["unquantized"]),
            steps=steps_of(summary),
            findings=tuple(Finding(**row) for row in summary["findings"]),
        )

    def can_keep(self, value: QuantizedProgram) -> bool:
        """Tell whether the program's dynamic sizes are those that can be read back."""
        from edgecompile.program_entry import can_keep

        return can_keep(value.exported)


class Calibrated:
    """Keeps what the observers of activations have seen."""

    name = "calibrate"

    def write(self, value: Ranges, file: HashedFile) -> dict[str, Any]:
        """Write the state of each observer."""
        from edgecompile.tensor_file import write_tensors

        write_tensors(file, _named(value))
        return {}

    def read(self, path: Path, summary: dict[str, Any]) -> Ranges:
        """Return the states."""
        from edgecompile.tensor_file import read_tensors

        ranges: Ranges = {}
        for name, tensor in read_tensors(path)[0].items():
            observer, _, key = name.rpartition("/")
            ranges.setdefault(observer, {})[key] = tensor
        return ranges

    def can_keep(self, value: Ranges) -> bool:
        """Tell whether all are dense tensors."""
        from edgecompile.tensor_file import can_hold

        return can_hold(_named(value))


def _named(ranges: Ranges) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": tensor for name, state in ranges.items() for key, tensor in state.items()}


Kept = tuple[str, ...]
"""The nodes of a float program that stay in float so that a budget holds."""


def quantized_program(
    cache: StageCache,
    in_float: Result[CapturedProgram],
    *,
    calibration: Result[Dataset] | None,
    target: Target,
    precision: Precision,
    kept: Result[Kept] | None = None,
) -> Result[QuantizedProgram]:
    """Return a float program as a target wants it.

    Args:
        cache: Keeps it.
        in_float: The program.
        calibration: Samples; static INT8 needs them.
        target: Says how it is quantized.
        precision: Says what is.
        kept: In static INT8, what stays in float all the same.

    Raises:
        CalibrationRequiredError: INT8 without calibration data.
        NotFiniteValueError: The model computes NaN or infinity for a calibration sample.
    """
    if precision == "fp32":
        return cache.result(
            Quantized(),
            digest("keep-float", in_float.key),
            lambda: _keep_float(in_float.value()),
            "passes",
        )
    settings = target.quantization
    if precision != "int8":
        without_data = digest("quantize", precision, in_float.key, *_read_by(precision, settings))
        return cache.result(
            Quantized(),
            without_data,
            lambda: _quantize_without_data(in_float.value(), settings, precision),
            "passes and quantize",
        )
    if calibration is None:
        raise CalibrationRequiredError("INT8 needs calibration data")
    data = calibration
    seen_key = digest(
        "calibrate",
        in_float.key,
        data.digest,
        settings.scheme,
        settings.statistics,
        str(settings.calibration_samples),
        *(() if kept is None else (kept.digest,)),
    )

    def make() -> QuantizedProgram:
        from edgecompile.quantize.correct_weights import correct_weights
        from edgecompile.quantize.distill import distill
        from edgecompile.quantize.static_int8 import calibrate, convert, prepare

        prepared = prepare(in_float.value(), settings, () if kept is None else kept.value())

        def measure() -> Ranges:
            return calibrate(prepared, data.value(), settings, cache.progress)

        converted = convert(prepared, cache.value(Calibrated(), seen_key, measure, "calibrate"))
        samples = spread(data.value().samples, settings.correction_samples)
        corrected = correct_weights(converted, in_float.value(), samples, settings, cache.progress)
        trained_on = spread(data.value().samples, settings.calibration_samples)
        return distill(corrected, in_float.value(), trained_on, settings, cache.progress)

    key = digest("quantize", seen_key, json.dumps(dataclasses.asdict(settings)))
    return cache.result(Quantized(), key, make, "passes and quantize")


def foreseen_program(
    program: CapturedProgram, settings: QuantizationSettings, precision: Precision
) -> QuantizedProgram:
    """Return a float program as `quantized_program` would without data: its ranges are made up.

    What is quantized is the same, unless the calibration splits channels or concatenations first.
    """
    if precision == "fp32":
        return _keep_float(program)
    if precision != "int8":
        return _quantize_without_data(program, settings, precision)
    from edgecompile.quantize.static_int8 import assumed_ranges, convert, prepare

    prepared = prepare(program, settings)
    return convert(prepared, assumed_ranges(prepared))


def _read_by(precision: Precision, settings: QuantizationSettings) -> tuple[str, ...]:
    """Return the settings that a precision without calibration depends on."""
    in_groups = (str(settings.weight_group_size),) if precision == "int4-weights" else ()
    return str(settings.weight_bits), *in_groups


def _quantize_without_data(
    program: CapturedProgram, settings: QuantizationSettings, precision: Precision
) -> QuantizedProgram:
    if precision == "int8-dynamic":
        from edgecompile.quantize.dynamic_int8 import quantize_dynamic

        return quantize_dynamic(program, settings)
    from edgecompile.quantize.weights_only import quantize_weights

    return quantize_weights(program, settings, bits=4 if precision == "int4-weights" else 8)


def _keep_float(program: CapturedProgram) -> QuantizedProgram:
    from edgecompile.quantize.static_int8 import keep_float

    return keep_float(program)
