"""A target: how to compile for one platform and architecture, read from a TOML file in targets/.

A file may say `extends = "_defaults"`: tables are merged key by key, lists and values replace. One
level only, so that two files tell everything.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, with_config

from edgecompile import catalogue, shipped
from edgecompile.errors import (
    EdgecompileError,
    InvalidPruningError,
    InvalidQuantizationError,
    InvalidTargetError,
    UnknownPassError,
    UnknownTargetError,
    did_you_mean,
)
from edgecompile.problems import Problems
from edgecompile.program import Precision
from edgecompile.pruning.pruning_report import Importance, Measure
from edgecompile.setting import Setting
from edgecompile.strict_toml import STRICT, parse, read_toml

OVERRIDABLE: Mapping[str, type[EdgecompileError]] = {
    "quantization": InvalidQuantizationError,
    "pruning": InvalidPruningError,
}
"""The tables in whose place a build may say its own, key by key, and what is raised where it may not."""


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PassEntry:
    """One pass of a target, and why this target runs it.

    Attributes:
        precisions: What it is run for; empty for all.
    """

    name: str
    reason: str
    precisions: tuple[Precision, ...] = ()


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """How INT8 is done.

    Attributes:
        scheme: Both weights and activations in integers, with ranges fixed at compile time.
        weight_bits: Bits of a weight that are used, 2 to 8; 7 leaves headroom ("reduce range") for
            engines that add two products in 16 bits.
        weight_granularity: One scale for each output channel, or one for the whole tensor.
        weight_observer: How a weight's range is chosen: its extremes, or clipped to the least squared error.
        activation_observer: How an activation's range is chosen: the extremes that were seen, the average of
            each sample's extremes, or one of several choices from a histogram.
        activation_percentile: For the observer `percentile`: the percentage of the values that are not above
            the range; as many are not below it.
        activation_symmetry: Whether an activation's zero point is free, or 0.
        power_of_two_scales: Whether all scales are rounded up to powers of two.
        calibration_samples: The most samples that are used, evenly spaced over the data.
        equalization: Whether channels are scaled before calibration, so that one scale a tensor fits all.
        bias_absorption: Whether what is constant in a channel moves into the biases of the layers after it.
        concat_splitting: Whether layers read the inputs of a concatenation one by one where they have too
            different ranges for one scale.
        channel_splitting: The most multiply-accumulates, and the most parameters, as a share of all, that
            channels with far too large weights may add by being computed several times; 0 for none.
        weight_rounding: To the nearest integer, so that the errors of a row cancel on the samples, or from
            there up or down as gradient descent on the layer's output finds.
        rounding_steps: Of adaptive rounding, for each layer.
        rounding_minutes: The most that adaptive rounding takes, shared out over the layers by their size.
        bias_correction: Whether biases take up the mean error of their layer.
        correction_samples: The most samples that weights and biases are corrected on, evenly spaced.
        distillation_steps: Of the training against the float program; 0 for none.
        distillation_minutes: The most that it takes.
        distillation_batch: Samples of a step.
        distillation_rate: By how much a step moves a weight at most, about, in steps of its integers.
        weight_group_size: With `int4-weights`, how many neighbouring inputs of a linear layer share a
            scale; the sizes are those of ONNX Runtime's kernels.
    """

    scheme: Literal["static-int8"]
    weight_bits: Annotated[int, Field(ge=2, le=8)]
    weight_granularity: Literal["per-channel", "per-tensor"]
    weight_observer: Literal["min-max", "mse"]
    activation_observer: Literal["min-max", "moving-average", "percentile", "histogram", "mse", "entropy"]
    activation_percentile: Annotated[float, Field(ge=50, le=100)]
    activation_symmetry: Literal["affine", "symmetric"]
    power_of_two_scales: bool
    calibration_samples: Annotated[int, Field(ge=1)]
    weight_group_size: Literal[16, 32, 64, 128, 256] = 32
    equalization: bool
    bias_absorption: bool
    concat_splitting: bool
    channel_splitting: Annotated[float, Field(ge=0, le=1)]
    weight_rounding: Literal["nearest", "compensated", "adaptive"]
    rounding_steps: Annotated[int, Field(ge=1)]
    rounding_minutes: Annotated[float, Field(gt=0)]
    bias_correction: bool
    correction_samples: Annotated[int, Field(ge=1)]
    distillation_steps: Annotated[int, Field(ge=0)]
    distillation_minutes: Annotated[float, Field(gt=0)]
    distillation_batch: Annotated[int, Field(ge=1)]
    distillation_rate: Annotated[float, Field(gt=0)]

    @property
    def with_whole_layers(self) -> QuantizationSettings:
        """The same without splits: each layer's weight has the shape and the zeros that it had."""
        return dataclasses.replace(self, concat_splitting=False, channel_splitting=0)

    @property
    def weight_limit(self) -> int:
        """The greatest absolute integer of a weight; the least, -128, is never used."""
        return (1 << self.weight_bits - 1) - 1

    @property
    def statistics(self) -> str:
        """What calibration keeps of an activation: observers that keep the same share one calibration."""
        own = ("min-max", "moving-average", "mse")
        return self.activation_observer if self.activation_observer in own else "histogram"


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PruningSettings:
    """How channels are chosen, and what makes up for those that are gone.

    Attributes:
        measure: What `--prune` removes a share of: multiply-accumulates, elements of parameters, their bytes
            in INT8, or a prediction of the latency.
        importance: What removing a channel is taken to cost: the sums of its absolute or squared weights, its
            scale in batch norm, the energy of its values, what zeroing it changes at the outputs, or what
            it changes once the weights after it make up for it.
        channel_multiple: Widths become multiples of so many channels, so that SIMD kernels stay full.
        minimum_width: The least channels of a layer.
        steps: How often what the channels matter is measured anew, with part of them gone.
        samples: The most samples of the calibration data that are used, evenly spaced.
        least_squares: Whether the weights that stay are fitted to what their layers gave before.
        distillation_steps: Of the training against the original; 0 for none.
        distillation_minutes: The most that it takes.
        distillation_batch: Samples of a step.
        distillation_rate: By how much a step moves a weight at most, about, as a share of its tensor's size.
        exclude: Layers, by name or by a pattern with `*`, whose channels all stay, and all weights of which
            `--sparsity` leaves as they are.
        ratio: The share of the channels of a layer, by name or pattern, that goes whatever the others do.
    """

    measure: Measure
    importance: Importance
    channel_multiple: Annotated[int, Field(ge=1)]
    minimum_width: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=1)]
    samples: Annotated[int, Field(ge=1)]
    least_squares: bool
    distillation_steps: Annotated[int, Field(ge=0)]
    distillation_minutes: Annotated[float, Field(gt=0)]
    distillation_batch: Annotated[int, Field(ge=1)]
    distillation_rate: Annotated[float, Field(gt=0)]
    exclude: tuple[str, ...] = ()
    ratio: Mapping[str, Annotated[float, Field(ge=0, lt=1)]] = field(default_factory=dict)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class EmitSettings:
    """How one format is written.

    Attributes:
        emitter: The module in emitters/ that writes it.
        delegate: What computes inside the engine ("xnnpack"); "" where an engine has no delegates.
        opset: The ONNX operator set; 0 for formats that have none.
        weight_dtype: The integer type that holds ONNX weights; the values are the same.
        precisions: What the format can take of a build's `--precision`.
    """

    emitter: str
    delegate: Literal["", "xnnpack"] = ""
    opset: Annotated[int, Field(ge=0)] = 0
    weight_dtype: Literal["int8", "uint8"] = "int8"
    precisions: tuple[Precision, ...] = ("int8", "fp32")


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """What an artifact must hold to pass validation.

    Attributes:
        max_sqnr_loss_db: End to end, how much lower the artifact's SQNR against the float model may be
            than the quantized reference's, in dB.
        sufficient_sqnr_db: An SQNR that is enough whatever the reference's: in float, engines differ from
            each other in the last bits only.
        max_agreement_loss_points: End to end, the same for top-1 agreement with the float model, in
            percentage points.
        max_step_error: Layer by layer, fed with the reference's own inputs: the difference from the
            reference, in quantization steps of the layer's output, that counts as equal.
        min_share_within_steps: The share of a layer's output elements, 0 to 1, that must be within
            `max_step_error`.
        goldens: How many golden inputs a bundle carries.
        layer_samples: The most samples that layers are compared with float on, evenly spaced over the data.
        sensitivity_samples: The same for the sensitivity of each layer.
    """

    max_sqnr_loss_db: Annotated[float, Field(ge=0)]
    sufficient_sqnr_db: Annotated[float, Field(ge=0)]
    max_agreement_loss_points: Annotated[float, Field(ge=0, le=100)]
    max_step_error: Annotated[int, Field(ge=0)]
    min_share_within_steps: Annotated[float, Field(ge=0, le=1)]
    goldens: Annotated[int, Field(ge=1)]
    layer_samples: Annotated[int, Field(ge=1)]
    sensitivity_samples: Annotated[int, Field(ge=1)]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Target:
    """One target, resolved.

    Attributes:
        name: The file's stem.
        passes: The passes that run, in order.
        emit: The settings of each format ("pte", "ptl", "onnx").
    """

    name: str
    description: str
    platform: Literal["android", "ios", "linux"]
    architecture: Literal["arm64", "x86-64"]
    passes: tuple[PassEntry, ...]
    pruning: PruningSettings
    quantization: QuantizationSettings
    emit: Mapping[str, EmitSettings]
    validation: ValidationSettings

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that this target emits."""
        return tuple(self.emit)

    def passes_for(self, precision: Precision) -> list[str]:
        """Return the names of the passes that run for a precision, in order."""
        return [item.name for item in self.passes if precision in item.precisions or not item.precisions]

    def to_dict(self) -> dict[str, Any]:
        """Return what `edgecompile targets NAME --json` prints and a manifest stores."""
        return dataclasses.asdict(self)


def target_names() -> tuple[str, ...]:
    """Return the names of all targets, sorted; files that begin with `_` are only extended."""
    stems = (path.stem for path in shipped.targets_folder().glob("*.toml"))
    return tuple(sorted(stem for stem in stems if not stem.startswith("_")))


def load_target(name: str, overrides: Sequence[Setting] = ()) -> Target:
    """Read, merge and check a target, and put a build's own settings in the place of its.

    Args:
        name: The file's stem.
        overrides: Keys of the tables `quantization` and `pruning`.

    Raises:
        InvalidPruningError: An override is no key of its table, or of no value that it takes.
        InvalidQuantizationError: The same.
        UnknownTargetError: There is no such file.
        InvalidTargetError: The file, or what it extends, does not follow the schema.
        UnknownPassError: It names a pass that does not exist.
        ConfigurationErrors: Several of these.
    """
    data, origins = _merged(name)
    path = _path(name)

    def locate(key: str) -> Path:
        parents = (key[: match.start()] for match in reversed(list(re.finditer(r"[.\[]", key))))
        return next((origins[part] for part in (key, *parents) if part in origins), path)

    if "name" in data:
        raise InvalidTargetError(
            "unknown key 'name'", where=f"{locate('name')}: name", hint="a target's name is its file's stem"
        )
    target = parse(Target, {"name": name, **data}, InvalidTargetError, locate)
    problems = Problems()
    _check_names(target, locate, problems)
    problems.raise_any()
    return _overridden(target, overrides)


def target_settings(name: str, overrides: Sequence[Setting] = ()) -> tuple[Setting, ...]:
    """Return what the files of a target say, each setting with what says it: a file, or an override.

    Raises:
        UnknownTargetError: There is no such file.
        InvalidTargetError: The file, or what it extends, is not TOML or extends too deeply.
    """
    data, origins = _merged(name)
    settings = []
    for key, path in origins.items():
        value: Any = data
        for part in key.split("."):
            value = value[part]
        if key == "passes":
            value = tuple(entry["name"] for entry in value)
        settings.append(Setting(name=key, value=value, origin=f"target {path.name}"))
    said = {override.name: override for override in overrides}
    return tuple(said.get(setting.name, setting) for setting in settings)


def _overridden(target: Target, overrides: Sequence[Setting]) -> Target:
    """Return a target with other settings, checked as those of a file are."""
    problems = Problems()
    for table, error in OVERRIDABLE.items():
        with problems.collecting():
            target = _table_overridden(target, table, error, overrides)
    problems.raise_any()
    return target


def _table_overridden(
    target: Target, table: str, error: type[EdgecompileError], overrides: Sequence[Setting]
) -> Target:
    own = {override.name: override for override in overrides if override.name.startswith(f"{table}.")}
    document = target.to_dict()
    for name, override in own.items():
        document[table][name.removeprefix(f"{table}.")] = override.value

    def locate(key: str) -> str:
        return next(item.origin for name, item in own.items() if f"{key}.".startswith(f"{name}."))

    return parse(Target, document, error, locate) if own else target


def _path(name: str) -> Path:
    return shipped.targets_folder() / f"{name}.toml"


def _check_names(target: Target, locate: Any, problems: Problems) -> None:
    """Check the names that stand for files: passes and emitters."""
    known_passes = catalogue.names("edgecompile.passes")
    known_emitters = catalogue.names("edgecompile.emitters")
    seen: set[str] = set()
    for position, entry in enumerate(target.passes):
        where = f"{locate('passes')}: passes[{position}].name"
        if entry.name not in known_passes:
            problems.add(UnknownPassError(entry.name, known_passes, where))
        elif entry.name in seen:
            problems.add(InvalidTargetError(f"the pass {entry.name!r} is listed twice", where=where))
        seen.add(entry.name)
    for format_name, settings in target.emit.items():
        if settings.emitter in known_emitters:
            continue
        guess = did_you_mean(settings.emitter, known_emitters)
        key = f"emit.{format_name}.emitter"
        problems.add(
            InvalidTargetError(
                f"there is no emitter {settings.emitter!r}",
                where=f"{locate(key)}: {key}",
                known=", ".join(known_emitters),
                hint=f"did you mean {guess!r}?" if guess else None,
            )
        )


def _merged(name: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return a target's tables with those that it extends, and the file of each dotted key."""
    if name not in target_names():
        raise UnknownTargetError(name, target_names())
    path = _path(name)
    data = read_toml(path, InvalidTargetError)
    base_name = data.pop("extends", None)
    if base_name is None:
        return data, dict.fromkeys(_keys(data), path)
    base_path = _path(str(base_name))
    if not base_path.is_file():
        raise InvalidTargetError(
            f"it extends {base_name!r}, which does not exist",
            where=f"{path}: extends",
            hint='`extends = "_defaults"` is what a target usually says',
        )
    base = read_toml(base_path, InvalidTargetError)
    if "extends" in base:
        raise InvalidTargetError(
            f"it extends {base_name!r}, which itself extends {base['extends']!r}",
            where=f"{path}: extends",
            expected="one level: a file that is extended extends nothing",
        )
    origins = dict.fromkeys(_keys(base), base_path) | dict.fromkeys(_keys(data), path)
    return _merge(base, data), origins


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` on top: tables key by key, anything else replaced."""
    merged = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], Mapping) and isinstance(over[key], Mapping):
            merged[key] = _merge(base[key], over[key])
    return merged


def _keys(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of each value."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key
