"""The states that a model passes through, one frozen dataclass each.

    SourceModel -> CapturedProgram -> QuantizedProgram -> (emitters) Artifact -> Bundle

The type of a state says what has been done, so that a type checker refuses to emit what was not
quantized. Inside the graph states everything speaks `torch.export.ExportedProgram`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgecompile.finding import Finding

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

Precision = Literal["int8", "int8-dynamic", "int8-weights", "int4-weights", "fp32"]


class Reason(str):
    """Why something is not done, with what its author can change; a plain string where that is nothing.

    Attributes:
        change: One sentence that says what to do.
    """

    change: str

    def __new__(cls, why: str, *, change: str = "") -> Reason:
        """Return the sentence that says why."""
        reason = super().__new__(cls, why)
        reason.change = change
        return reason


@dataclass(frozen=True, kw_only=True)
class Declined:
    """One thing that was not done, and why: a row of the report's why-not table.

    `edgecompile.decline.decline` makes one of a node, with what the node costs.

    Attributes:
        what: The operator, or the node's name in the graph.
        where: The user's source line, `file.py:12`, else the module, or "" where the graph knows neither.
        reason: Why, in a sentence for the model's author.
        change: What to do about it, in a sentence; "" where nothing is known to help.
        macs: Multiply-accumulates of the operator for one sample; 0 where it has none.
        moved_bytes: What the operator reads and writes for one sample; 0 where that is not known.
        timed_as: What a trace calls it that tells the times of operators; "" where no trace does.
    """

    what: str
    where: str
    reason: str
    change: str = ""
    macs: int = 0
    moved_bytes: int = 0
    timed_as: str = ""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What one stage or pass did.

    Attributes:
        seconds: Wall time.
        rewrites: How many places of the graph were changed.
    """

    name: str
    seconds: float
    nodes_before: int
    nodes_after: int
    rewrites: int
    declined: tuple[Declined, ...] = ()


def step_record(
    name: str,
    started: float,
    before: ExportedProgram,
    after: ExportedProgram,
    *,
    rewrites: int,
    declined: tuple[Declined, ...] = (),
) -> StepRecord:
    """Return what a step did that began at `started` of `time.perf_counter` and ends now."""
    return StepRecord(
        name=name,
        seconds=time.perf_counter() - started,
        nodes_before=len(before.graph.nodes),
        nodes_after=len(after.graph.nodes),
        rewrites=rewrites,
        declined=declined,
    )


def step_from_dict(row: dict[str, Any]) -> StepRecord:
    """Return the step that `dataclasses.asdict` gave."""
    return StepRecord(**row | {"declined": tuple(Declined(**item) for item in row["declined"])})


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """What the user handed in: a module with example inputs, or a program captured earlier.

    Attributes:
        example_inputs: As `forward` takes them in order: tensors, or tuples, lists and dictionaries of them.
        example_keywords: What it takes by name.
    """

    name: str
    module: torch.nn.Module | None
    exported: ExportedProgram | None
    example_inputs: tuple[Any, ...]
    example_keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CapturedProgram:
    """The model as one ATen graph in inference mode, as captured or after passes.

    Attributes:
        sensitivities: By the name of a value's node, how much noise on each of its channels matters at the
            outputs, in a shape that broadcasts to the value; empty where that is not measured.
        reaches: By the same names, how far one more sample may be from those that were measured: (2, C), the
            least and the greatest value of each channel.
    """

    name: str
    exported: ExportedProgram
    steps: tuple[StepRecord, ...]
    sensitivities: Mapping[str, torch.Tensor] = field(default_factory=dict)
    reaches: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class QuantizedProgram:
    """The program that every emitter lowers.

    Attributes:
        precision: What is quantized: weights and activations (`int8`), the activations at run time
            (`int8-dynamic`), weights alone (`int8-weights`, `int4-weights`), nothing (`fp32`).
        exported: The ATen graph; with quantize/dequantize nodes around what is quantized.
        float_weight_bytes: What the constants took before quantization.
        unquantized: What stays in float, and why; empty in fp32, where nothing was to be quantized.
        findings: What calibration found.
    """

    name: str
    precision: Precision
    exported: ExportedProgram
    float_weight_bytes: int
    unquantized: tuple[Declined, ...]
    steps: tuple[StepRecord, ...]
    findings: tuple[Finding, ...] = ()
