"""What a baseline keeps of a build, and a check compares: numbers alone, of which it can be small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, with_config

from edgecompile.program import Precision
from edgecompile.sample_scores import SampleScores, blocks_of, digits_for
from edgecompile.strict_toml import STRICT

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Share = Annotated[float, Field(ge=0, le=1)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """An input or output of the model."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class EmulatedCore:
    """What the emulator plays: a device of ours, or a CPU as QEMU names it."""

    device: str | None = None
    cpu: str | None = None

    def __str__(self) -> str:
        return self.device or self.cpu or ""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class InstructionFacts:
    """What the emulated core executes.

    Attributes:
        load: From the file to a model that is ready to run.
        per_inference: The median of the timed iterations.
    """

    load: _Count
    per_inference: _Count


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ArtifactFacts:
    """One artifact.

    Attributes:
        operators: What its engine executes outside every delegate, by name, with the number of calls.
        delegate_calls: Into all delegates.
        identical: The share of output elements, 0 to 1, equal to the bit to the reference.
        scores: Sample by sample, beside the float model.
        instructions: None where they were not counted.
        memory_bytes: How much its process grew on the host from before loading to its peak; None where that
            was not measured.
    """

    sha256: str
    size_bytes: _Count
    operators: dict[str, _Count]
    delegate_calls: _Count
    identical: _Share
    scores: SampleScores
    instructions: InstructionFacts | None = None
    memory_bytes: _Count | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """One quantized layer; `layer_quality.LayerQuality` says what the numbers are."""

    kind: str
    where: str
    sqnr_db: float | None
    own_sqnr_db: float | None
    clipped_share: _Share
    scale: Annotated[float, Field(gt=0)]
    zero_point: int


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """The calibrated range of a quantized input, and the share of the samples' elements outside it."""

    low: float
    high: float
    outside: _Share


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class BuildFacts:
    """One bundle.

    Attributes:
        host: The CPU that the engines ran on.
        samples: How many samples the scores are of.
        data_sha256: Of these samples and their labels.
        calibration_sha256: Of what the ranges are from; None where nothing calibrated.
        float_correct: Which samples the float model itself names correctly, as in `SampleScores`; None
            without labels.
        float_sketch: Of the float model's outputs on the goldens: `sketch.py`.
        float_operators: How many operators are not quantized.
        core: On which the instructions were counted; None where they were not.
        artifacts: By format.
        input_ranges: Of the quantized inputs, by name.
        layers: Quantized layers by name, in the order of the graph.
    """

    name: str
    target: str
    precision: Precision
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    host: str
    samples: Annotated[int, Field(ge=1, lt=2**63)]
    data_sha256: str
    calibration_sha256: str | None
    float_correct: str | None
    float_sketch: tuple[float, ...]
    float_operators: _Count
    core: EmulatedCore | None = None
    artifacts: dict[str, ArtifactFacts]
    input_ranges: dict[str, InputFacts]
    layers: dict[str, LayerFacts]

    def inconsistent(self) -> str | None:
        """Say what of the scores is not of as many samples or outputs as there are; None where all is."""
        of_runs = {name: item.scores for name, item in self.artifacts.items()}
        bits = {f"{name}: correct": scores.correct for name, scores in of_runs.items()}
        bits |= {f"{name}: same_top1": scores.same_top1 for name, scores in of_runs.items()}
        bits["float_correct"] = self.float_correct
        for name, digits in bits.items():
            if digits is not None and len(digits) != digits_for(self.samples):
                return f"{name} has {len(digits)} hexadecimal digits for {self.samples} samples"
        blocks = len(blocks_of(self.samples))
        for name, scores in of_runs.items():
            for energies in (scores.signal, scores.noise):
                if [*map(len, energies)] != [blocks] * len(self.outputs):
                    return f"{name}: signal or noise is not of {len(self.outputs)} outputs in {blocks} blocks"
        return None
