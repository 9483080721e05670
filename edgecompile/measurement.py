"""What a runner reports, and a run as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError, with_config

from edgecompile.errors import RunnerFailedError
from edgecompile.strict_toml import STRICT

Dtype = Literal[
    "float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool"
]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class RunnerError:
    """Why a runner failed; the code is stable."""

    code: str
    message: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Latency:
    """Of the timed iterations, in milliseconds; percentiles are values that occurred."""

    min: float
    p50: float
    p90: float
    p99: float
    mean: float
    stddev: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of the runner's process, in bytes; 0 where the system does not tell."""

    resident: int
    peak: int


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class MemoryBytes:
    """The memory at three moments; loading includes no model data before `before_load`."""

    before_load: Memory
    after_load: Memory
    after_run: Memory


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class CpuState:
    """The CPU right after the timed iterations; what the system does not tell is empty or None."""

    features: tuple[str, ...]
    frequencies_khz: tuple[int, ...]
    governor: str | None
    temperature_celsius: float | None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TensorShape:
    """An input or output; -1 in a shape stands for a dynamic dimension."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Golden:
    """How the runner itself judges one output of one sample.

    Attributes:
        max_abs_error: None where the output holds NaN or infinity.
        sqnr_db: None where nothing differs, or where `max_abs_error` is None.
        equal_share: The share of elements, 0 to 1, that are equal to the bit.
    """

    sample: int
    output: int
    passed: bool
    max_abs_error: float | None
    sqnr_db: float | None
    equal_share: float


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class RunnerReport:
    """The runner's JSON document, field by field.

    Attributes:
        load_ms: From the file to a model that is ready to run; None if it never was.
        first_inference_ms: The very first run.
        latency_ms: None where no iteration was timed.
        inputs: Empty where the artifact does not tell.
    """

    schema_version: Literal[1]
    engine: str
    engine_version: str
    error: RunnerError | None
    threads: int
    cpus: tuple[int, ...]
    load_ms: float | None
    first_inference_ms: float | None
    warmup: int
    iterations: int
    latency_ms: Latency | None
    latencies_ms: tuple[float, ...]
    memory_bytes: MemoryBytes
    cpu: CpuState
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    goldens: tuple[Golden, ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One run of an artifact.

    Attributes:
        connection: Where it ran; times from an emulator say nothing.
        outputs: One tuple of outputs a sample.
    """

    connection: str
    report: RunnerReport
    outputs: tuple[tuple[torch.Tensor, ...], ...]

    @property
    def goldens_passed(self) -> bool:
        """Whether the runner found every expected output close enough."""
        return all(golden.passed for golden in self.report.goldens)


def read_report(data: bytes, where: str) -> RunnerReport:
    """Parse a runner's report.

    Raises:
        RunnerFailedError: It is truncated, or of another version.
    """
    try:
        return TypeAdapter(RunnerReport).validate_json(data)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RunnerFailedError(
            "the runner's report cannot be read", where=where, found=f"{key}: {problem['msg']}"
        ) from error
