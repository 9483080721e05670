"""The settings of a build: default < `--config` file < flag, each with its origin."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import Field, with_config

from edgecompile.artifact import MANIFEST
from edgecompile.budget import Budget
from edgecompile.dataset import check_data
from edgecompile.device import load_device
from edgecompile.dynamic_size import WantedSize, parse_dynamic
from edgecompile.errors import (
    CalibrationRequiredError,
    DeviceTargetMismatchError,
    InvalidConfigError,
    ModelNotFoundError,
    OutputNotWritableError,
    UnknownFormatError,
    UnsupportedPrecisionError,
    UsageError,
)
from edgecompile.pipeline import Pipeline, read_label_file
from edgecompile.problems import Problems
from edgecompile.program import Precision
from edgecompile.pruning.sparsity import Sparsity, parse_sparsity
from edgecompile.setting import Setting, Value
from edgecompile.strict_toml import STRICT_KEBAB, parse, read_toml
from edgecompile.target import OVERRIDABLE, Target, load_target, target_names, target_settings
from edgecompile.user_code import check_spec


@with_config(STRICT_KEBAB)
@dataclass(frozen=True, kw_only=True)
class Options:
    """What one source of settings says; None is "nothing". Its fields are the flags and the file's keys."""

    target: tuple[str, ...] | None = None
    device: str | None = None
    format: tuple[str, ...] | None = None
    calibration: str | None = None
    evaluation: str | None = None
    precision: Precision | None = None
    dynamic_batch: bool | None = None
    dynamic: Mapping[str, str] | None = None
    output: str | None = None
    cache: bool | None = None
    jobs: Annotated[int, Field(ge=0)] | None = None
    prune: Annotated[float, Field(ge=0, lt=1)] | None = None
    sparsity: str | float | None = None
    pruning: Mapping[str, Any] | None = None
    quantization: Mapping[str, Any] | None = None
    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    min_sqnr_db: Annotated[float, Field(ge=0)] | None = None
    sensitivity: bool | None = None
    pipeline: Pipeline | None = None


DEFAULTS = Options(
    target=(),
    format=(),
    precision="int8",
    dynamic_batch=False,
    output="build",
    cache=True,
    jobs=0,
    sensitivity=False,
)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What to build.

    Attributes:
        model: `file.py:function`, `package.module:function` or `file.pt2`.
        targets: At least one name, none twice; all exist.
        device: The device profile that the artifacts must fit; its target is then the only one.
        formats: The formats to emit; empty for all of each target's.
        calibration: Data to choose quantization ranges on; never None in INT8.
        evaluation: Data to measure quality on, not used for calibration.
        dynamic_batch: Whether the artifacts take any batch size.
        dynamic: Which other sizes of inputs may vary.
        output: The folder that gets one folder for each target.
        cache: Whether results are kept for later builds, and those of earlier ones used.
        jobs: The most processes that lower at once; 0 for as many as CPUs and memory allow.
        prune: The share that is removed of what pruning can remove; None for no pruning.
        sparsity: How many weights become zero where they are; None for none.
        overrides: What is said instead of the targets' tables `pruning` and `quantization`; all keys exist.
        budget: What quality must hold; layers stay in float where it does not.
        sensitivity: Whether the report tells what the rounding of each layer costs.
        pipeline: What stands before and after the model; None for nothing.
        labels: The names of the classes that the pipeline tells; None for numbers.
        origins: Where each of the settings comes from, by its name on the command line.
    """

    model: str
    targets: tuple[str, ...]
    device: str | None = None
    formats: tuple[str, ...] = ()
    calibration: str | None = None
    evaluation: str | None = None
    precision: Precision = "int8"
    dynamic_batch: bool = False
    dynamic: tuple[WantedSize, ...] = ()
    output: Path = Path("build")
    cache: bool = True
    jobs: int = 0
    prune: float | None = None
    sparsity: Sparsity | None = None
    overrides: tuple[Setting, ...] = ()
    budget: Budget = field(default_factory=Budget)
    sensitivity: bool = False
    pipeline: Pipeline | None = None
    labels: tuple[str, ...] | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    def own_settings(self) -> tuple[Setting, ...]:
        """Return the settings of this build, without those of its targets."""
        values: dict[str, Value] = {
            "model": self.model,
            "target": self.targets,
            "device": self.device,
            "format": self.formats,
            "calibration": self.calibration,
            "evaluation": self.evaluation,
            "precision": self.precision,
            "dynamic-batch": self.dynamic_batch,
            "dynamic": tuple(map(str, self.dynamic)),
            "output": str(self.output),
            "cache": self.cache,
            "jobs": self.jobs,
            "prune": self.prune,
            "sparsity": None if self.sparsity is None else self.sparsity.text,
            "max-accuracy-drop": self.budget.max_accuracy_drop,
            "min-sqnr-db": self.budget.min_sqnr_db,
            "sensitivity": self.sensitivity,
            "pipeline": _parts_of(self.pipeline),
        }
        own = (
            Setting(name=name, value=value, origin=self.origins.get(name, "default"))
            for name, value in values.items()
        )
        return (*own, *self.overrides)

    def plan(self) -> tuple[Setting, ...]:
        """Return what `--plan` prints: the settings of this build and of each of its targets."""
        of_targets = (
            replace(setting, name=f"{name}: {setting.name}")
            for name in self.targets
            for setting in target_settings(name, self.overrides)
        )
        return (*self.own_settings(), *of_targets)


def resolve(model: str, flags: Options, config: Path | None = None) -> BuildSettings:
    """Merge the sources of settings and check everything that can be checked before any work.

    Raises:
        EdgecompileError: The one thing that is wrong.
        ConfigurationErrors: All that is wrong, if it is several things.
    """
    problems = Problems()
    layers = [("default", DEFAULTS), ("flag", flags)]
    if config is not None:
        with problems.collecting():
            layers.insert(1, (f"config {config}", _read_config(config)))
    chosen: dict[str, Any] = {}
    origins = {"model": "argument"}
    for option in dataclasses.fields(Options):
        if option.name in OVERRIDABLE:
            continue  # Its keys may come from several sources.
        flag = option.name.replace("_", "-")
        for origin, layer in layers:
            value = getattr(layer, option.name)
            if value is not None:
                chosen[option.name] = value
                origins[flag] = _origin(origin, flag)
    with problems.collecting():
        _take_target_of_device(chosen, origins)
    sparsity = None
    if "sparsity" in chosen:
        with problems.collecting():
            sparsity = parse_sparsity(str(chosen["sparsity"]), origins["sparsity"])
    dynamic: tuple[WantedSize, ...] = ()
    if "dynamic" in chosen:
        with problems.collecting():
            dynamic = parse_dynamic(chosen["dynamic"], origins["dynamic"])
    labels = None
    with problems.collecting():
        labels = _labels(chosen.get("pipeline"), origins)
    settings = BuildSettings(
        model=model,
        targets=tuple(dict.fromkeys(chosen["target"])),
        device=chosen.get("device"),
        formats=tuple(dict.fromkeys(chosen["format"])),
        calibration=chosen.get("calibration"),
        evaluation=chosen.get("evaluation"),
        precision=chosen["precision"],
        dynamic_batch=chosen["dynamic_batch"],
        dynamic=dynamic,
        output=Path(chosen["output"]),
        cache=chosen["cache"],
        jobs=chosen["jobs"],
        prune=chosen.get("prune"),
        sparsity=sparsity,
        overrides=_overrides(layers),
        budget=Budget(
            max_accuracy_drop=chosen.get("max_accuracy_drop"), min_sqnr_db=chosen.get("min_sqnr_db")
        ),
        sensitivity=chosen["sensitivity"],
        pipeline=chosen.get("pipeline"),
        labels=labels,
        origins=origins,
    )
    _check(settings, problems)
    problems.raise_any()
    return settings


def _take_target_of_device(chosen: dict[str, Any], origins: dict[str, str]) -> None:
    """Let the device say the target; one that is named as well must be the same.

    A device given as a flag wins over a target of the config file, as flags do.
    """
    if chosen.get("device") is None:
        return
    device = load_device(chosen["device"])
    overrules = origins["device"].startswith("flag") and not origins["target"].startswith("flag")
    if not chosen["target"] or overrules:
        chosen["target"] = (device.target,)
        origins["target"] = f"device {device.name}"
    elif set(chosen["target"]) != {device.target}:
        raise DeviceTargetMismatchError(
            f"the device {device.name!r} is not compiled for as {', '.join(chosen['target'])}",
            where=f"target: {origins['target']}; device: {origins['device']}",
            expected=device.target,
            hint="leave out the target: the device says it",
        )


def _overrides(layers: Sequence[tuple[str, Options]]) -> tuple[Setting, ...]:
    """Return what the sources say of the targets' tables, key by key."""
    said = {}
    for table in OVERRIDABLE:
        for origin, layer in layers:
            for key, value in (getattr(layer, table) or {}).items():
                name = f"{table}.{key}"
                said[name] = Setting(name=name, value=value, origin=_origin(origin, table))
    return tuple(said.values())


def _origin(layer: str, flag: str) -> str:
    return f"flag --{flag}" if layer == "flag" else layer


def _read_config(path: Path) -> Options:
    data = read_toml(path, InvalidConfigError)
    options = parse(Options, data, InvalidConfigError, lambda key: path)
    return replace(
        options,
        calibration=beside(path, options.calibration),
        evaluation=beside(path, options.evaluation),
        output=beside(path, options.output),
        pipeline=_beside_labels(path, options.pipeline),
    )


def _beside_labels(file: Path, pipeline: Pipeline | None) -> Pipeline | None:
    if pipeline is None or pipeline.classes is None or pipeline.classes.labels is None:
        return pipeline
    labels = str(file.parent / pipeline.classes.labels)
    return replace(pipeline, classes=replace(pipeline.classes, labels=labels))


def _labels(pipeline: Pipeline | None, origins: Mapping[str, str]) -> tuple[str, ...] | None:
    if pipeline is None or pipeline.classes is None or pipeline.classes.labels is None:
        return None
    return read_label_file(Path(pipeline.classes.labels), InvalidConfigError, origins["pipeline"])


def _parts_of(pipeline: Pipeline | None) -> tuple[str, ...]:
    """Return which parts of a pipeline there are, for the plan; the manifest has all that they say."""
    if pipeline is None:
        return ()
    return tuple(item.name for item in dataclasses.fields(pipeline) if getattr(pipeline, item.name))


def beside(file: Path, text: str | None) -> str | None:
    """Return a path, or `file.py:function`, relative to a file as seen from here; modules are left alone."""
    source, colon, _ = (text or "").rpartition(":")
    if text is None or (colon and not source.endswith(".py")):
        return text
    return str(file.parent / text)


def _check(settings: BuildSettings, problems: Problems) -> None:
    """Collect all that is wrong with the settings."""
    with problems.collecting():
        _check_model(settings.model)
    if not settings.targets and settings.device is None:
        problems.add(
            UsageError(
                "no target is given",
                known=", ".join(target_names()),
                hint='add `--target NAME` or `--device NAME`, or `target = ["NAME"]` to the file of --config',
            )
        )
    for name in settings.targets:
        with problems.collecting():
            known = load_target(name, settings.overrides).formats
            for wrong in (format_name for format_name in settings.formats if format_name not in known):
                problems.add(UnknownFormatError(wrong, known, where=f"target {name}"))
        with problems.collecting():
            _check_precision(settings, load_target(name))
    _check_pruning(settings, problems)
    if settings.precision == "int8" and settings.calibration is None:
        problems.add(
            CalibrationRequiredError(
                "INT8 needs calibration data",
                where=f"precision: int8 ({settings.origins.get('precision', 'default')})",
                hint="add `--calibration DATA`, some 100 typical inputs; the other precisions need none: "
                f"{', '.join(name for name in get_args(Precision) if name != 'int8')}",
            )
        )
    if settings.precision != "int8":
        for name in ("max-accuracy-drop", "min-sqnr-db", "sensitivity"):
            if settings.origins.get(name, "default") != "default":
                problems.add(
                    UsageError(
                        f"--{name} is for the precision int8",
                        where=f"precision: {settings.precision} ({settings.origins['precision']})",
                    )
                )
    for data in (settings.calibration, settings.evaluation):
        if data is not None:
            with problems.collecting():
                check_data(data)
    with problems.collecting():
        _check_output(settings.output)
        for name in settings.targets:
            check_replaceable(settings.output / name)


def _check_pruning(settings: BuildSettings, problems: Problems) -> None:
    if settings.prune is None:
        is_said = any(item.origin == "flag --pruning" for item in settings.overrides)
        if is_said and "sparsity" not in settings.origins:
            problems.add(
                UsageError(
                    "--pruning says how to prune, and nothing is pruned",
                    hint="add `--prune RATIO`, 0 to 1, or `--sparsity SHARE`",
                )
            )
        return
    if settings.calibration is None:
        problems.add(
            CalibrationRequiredError(
                "pruning measures what channels matter on calibration data",
                where=f"prune: {settings.prune} ({settings.origins['prune']})",
                hint="add `--calibration DATA`, some 100 typical inputs",
            )
        )


def _check_precision(settings: BuildSettings, target: Target) -> None:
    """Check that every format that is emitted can take the precision.

    Raises:
        UnsupportedPrecisionError: One cannot.
    """
    wanted = settings.precision
    chosen = [name for name in settings.formats or target.formats if name in target.formats]
    unable = [name for name in chosen if wanted not in target.emit[name].precisions]
    if not unable:
        return
    able = [name for name in target.formats if wanted in target.emit[name].precisions]
    formats = " ".join(f"--format {name}" for name in able)
    raise UnsupportedPrecisionError(
        f"{', '.join(unable)} cannot take the precision {wanted!r} on {target.name}",
        where=f"precision: {wanted} ({settings.origins.get('precision', 'default')})",
        known="\n".join(f"{name}: {', '.join(target.emit[name].precisions)}" for name in target.formats),
        hint=f"build what can with `{formats}`" if able else "choose another precision or target",
    )


def _check_model(model: str) -> None:
    if not model.endswith(".pt2"):
        check_spec(model)
    elif not Path(model).is_file():
        raise ModelNotFoundError(f"there is no file {model!r}")


def check_replaceable(folder: Path) -> None:
    """Check that a bundle's folder may be replaced: it is absent, empty or a bundle.

    Raises:
        OutputNotWritableError: It holds something else, which a build would destroy.
    """
    try:
        free = not folder.exists() or (folder / MANIFEST).is_file() or not any(folder.iterdir())
    except OSError:
        free = False
    if not free:
        raise OutputNotWritableError(
            f"'{folder}' is in the way: it is no bundle, and a build replaces the whole folder",
            hint="choose another folder with --output",
        )


def _check_output(output: Path) -> None:
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputNotWritableError(f"'{existing}' is not a folder", where=f"output: {output}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputNotWritableError(f"'{existing}' cannot be written to", where=f"output: {output}")
