"""Every error that a user can see: one class a case, each with its own code and exit status.

The shape is always the same: what happened, where, what is known or expected, what to do::

    error[unknown-target]: there is no target 'android-arm46'
      known: android-arm64, android-x86-64, ios-arm64, linux-arm64, ...
      hint:  did you mean 'android-arm64'? `edgecompile targets` lists all.

Exit status: 0 ok, 2 usage or configuration, 3 model not supported, 4 a gate failed, 5 a tool is
missing, 6 runner or device failed, 70 a bug of ours, 130 interrupted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the closest known name, or None if nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


class EdgecompileError(Exception):
    """The base: a message, and labelled lines below it (`where`, `known`, `expected`, `found`, `hint`)."""

    code: ClassVar[str]
    exit_status: ClassVar[int] = 2

    def __init__(self, message: str, **lines: str | None) -> None:
        super().__init__(message)
        self.message = message
        self.lines: dict[str, str] = {label: text for label, text in lines.items() if text}

    def render(self) -> str:
        """Return the text that the command line prints on stderr."""
        width = max((len(label) for label in self.lines), default=0) + 1
        rows = [f"error[{self.code}]: {self.message}"]
        for label, text in self.lines.items():
            first, *rest = text.splitlines()
            rows.append(f"  {label + ':':<{width}} {first}")
            rows.extend(f"  {'':<{width}} {line}" for line in rest)
        return "\n".join(rows)


class ConfigurationErrors(EdgecompileError):  # noqa: N818 (it holds several)
    """Several configuration errors, shown together before any work."""

    code = "configuration"

    def __init__(self, errors: Sequence[EdgecompileError]) -> None:
        super().__init__(f"{len(errors)} configuration errors")
        self.errors = tuple(errors)

    def render(self) -> str:
        """Return the rendered errors, one after another."""
        return "\n".join(error.render() for error in self.errors)


# --- usage and configuration: exit status 2 -------------------------------------------------------


class UsageError(EdgecompileError):
    """The command line does not parse (an unknown option, a missing argument)."""

    code = "usage"


class InvalidDynamicSizeError(EdgecompileError):
    """`--dynamic`, or the table `[dynamic]`, names no axis of an input, or says no bounds for its size."""

    code = "invalid-dynamic-size"


class UnknownNameError(EdgecompileError):
    """A name that is not in a catalogue; subclasses say which catalogue."""

    kind: ClassVar[str]
    listing: ClassVar[str]

    def __init__(self, name: str, known: Sequence[str], where: str | None = None) -> None:
        guess = did_you_mean(name, known)
        hint = f"did you mean {guess!r}? {self.listing}" if guess else self.listing
        super().__init__(
            f"there is no {self.kind} {name!r}", where=where, known=", ".join(sorted(known)), hint=hint
        )


class UnknownTargetError(UnknownNameError):
    """`--target` names no TOML file in targets/."""

    code = "unknown-target"
    kind = "target"
    listing = "`edgecompile targets` lists all."


class UnknownFormatError(UnknownNameError):
    """`--format` names a format that the target does not emit."""

    code = "unknown-format"
    kind = "format"
    listing = "`edgecompile targets NAME` lists a target's formats."


class UnknownPassError(UnknownNameError):
    """A target names a pass that has no file in passes/."""

    code = "unknown-pass"
    kind = "pass"
    listing = "`edgecompile passes` lists all."


class UnknownDeviceError(UnknownNameError):
    """`--device` names no TOML file in device_profiles/."""

    code = "unknown-device"
    kind = "device"
    listing = "`edgecompile devices` lists all."


class InvalidDeviceError(EdgecompileError):
    """A device profile does not follow the schema, or cannot play the part that was asked for."""

    code = "invalid-device"


class DeviceTargetMismatchError(EdgecompileError):
    """`--target` names another target than the profile of `--device` does."""

    code = "device-target-mismatch"


class InvalidTargetError(EdgecompileError):
    """A target's TOML file does not follow the schema."""

    code = "invalid-target"


class InvalidConfigError(EdgecompileError):
    """The file of `--config` does not follow the schema."""

    code = "invalid-config"


class InvalidPruningError(EdgecompileError):
    """A `--pruning` that the targets' table of that name cannot take."""

    code = "invalid-pruning"


class UnknownLayerError(UnknownNameError):
    """A rule of pruning that is for no layer of the model."""

    code = "unknown-layer"
    kind = "layer"
    listing = "`edgecompile inspect MODEL --groups` lists all."


class InvalidQuantizationError(EdgecompileError):
    """`--quantization`, or the config's table, says what the target's own table could not."""

    code = "invalid-quantization"


class InvalidModelSpecError(EdgecompileError):
    """MODEL is none of file.py:function, package.module:function, file.pt2."""

    code = "invalid-model-spec"


class ModelNotFoundError(EdgecompileError):
    """The file, module or function that MODEL names does not exist."""

    code = "model-not-found"


class ModelFunctionFailedError(EdgecompileError):
    """The user's model function, or importing its file, raised."""

    code = "model-function-failed"


class NotAModuleError(EdgecompileError):
    """The model function returned something other than an nn.Module (and example inputs)."""

    code = "not-a-module"


class MissingExampleInputsError(EdgecompileError):
    """The model function returns no example inputs."""

    code = "missing-example-inputs"


class ModelInputsMismatchError(EdgecompileError):
    """The model does not accept the inputs that were given."""

    code = "model-inputs-mismatch"


class UnreadableModelFileError(EdgecompileError):
    """A .pt2 file that is damaged, or was written by something else."""

    code = "unreadable-model-file"


class CalibrationRequiredError(EdgecompileError):
    """INT8 was asked for without calibration data."""

    code = "calibration-required"


class LabelsRequiredError(EdgecompileError):
    """A budget on accuracy was given, and data without labels."""

    code = "labels-required"


class UnsupportedPrecisionError(EdgecompileError):
    """`--precision` names one that a format of the target cannot take."""

    code = "unsupported-precision"


class UnreadableDataError(EdgecompileError):
    """Calibration or evaluation data that cannot be found or read."""

    code = "unreadable-data"


class EmptyDataError(EdgecompileError):
    """Calibration or evaluation data that holds no sample."""

    code = "empty-data"


class DataMismatchError(EdgecompileError):
    """A sample whose names, shape or dtype are not those of the model's inputs."""

    code = "data-mismatch"


class NotFiniteDataError(EdgecompileError):
    """A sample that holds NaN or infinity."""

    code = "data-not-finite"


class LabelOutOfRangeError(EdgecompileError):
    """A label of the evaluation data that is no class of the model's first output."""

    code = "label-out-of-range"


class OutputNotWritableError(EdgecompileError):
    """The output folder cannot be written."""

    code = "output-not-writable"


class UnknownPlatformError(UnknownNameError):
    """`--platform` names no module in embedding/platforms/."""

    code = "unknown-platform"
    kind = "platform"
    listing = "`edgecompile embed --help` says more."


class PlatformFormatError(UnknownNameError):
    """`embed --format` names a format that the platform has no engine for."""

    code = "platform-format"
    kind = "format for this platform"
    listing = "docs/embed.md says which platform takes which."


class PlatformSignatureError(EdgecompileError):
    """`embed --public-key` for a platform whose wrapper verifies no signatures."""

    code = "platform-signature"


class FormatNotInBundleError(EdgecompileError):
    """The bundle has no artifact that the platform can take."""

    code = "format-not-in-bundle"


class FolderNotEmptyError(EdgecompileError):
    """The folder of `embed` holds something that was not asked to be replaced."""

    code = "folder-not-empty"


class NameCollisionError(EdgecompileError):
    """Two names of a model become the same identifier."""

    code = "name-collision"


class DiskFullError(EdgecompileError):
    """The disk filled up while a bundle was written."""

    code = "disk-full"


class NotABundleError(EdgecompileError):
    """A path that is neither a bundle nor an artifact."""

    code = "not-a-bundle"


class InvalidManifestError(EdgecompileError):
    """A manifest.json that is truncated, altered or of another schema version."""

    code = "invalid-manifest"


class InvalidReportError(EdgecompileError):
    """A bundle's report.json that is damaged, or of a version that did not measure what is asked for."""

    code = "invalid-report"


class InvalidBaselineError(EdgecompileError):
    """A baseline that is missing, damaged, or of another schema version."""

    code = "invalid-baseline"


class BaselineMismatchError(EdgecompileError):
    """A baseline of another model, target or precision than the build that is compared with it."""

    code = "baseline-mismatch"


class EvaluationDataChangedError(EdgecompileError):
    """A build whose quality was measured on other data than its baseline's."""

    code = "evaluation-data-changed"


class InvalidMeasurementError(EdgecompileError):
    """A file of `report --measured` cannot be read, or does not follow the schema of `--json`."""

    code = "invalid-measurement"


class MeasurementMismatchError(EdgecompileError):
    """A file of `report --measured` measured none of the bundle's artifacts."""

    code = "measurement-mismatch"


class UnknownCpuError(UnknownNameError):
    """A CPU model that the emulator cannot emulate."""

    code = "unknown-cpu"
    kind = "CPU model"
    listing = "`qemu-aarch64 -cpu help` lists all."


class CacheNotWritableError(EdgecompileError):
    """The user's cache folder, where runners and engine libraries are kept, cannot be written."""

    code = "cache-not-writable"


class AlteredFileError(EdgecompileError):
    """A bundle's file that is missing, or whose SHA-256 is not the manifest's."""

    code = "altered-file"


class InvalidKeyError(EdgecompileError):
    """A file of a key that is missing or damaged, of another kind, or whose passphrase is not known."""

    code = "invalid-key"


class UnreadableArtifactError(EdgecompileError):
    """An artifact that its format's reader rejects."""

    code = "unreadable-artifact"


# --- the model is not supported: exit status 3 ----------------------------------------------------


class CaptureFailedError(EdgecompileError):
    """torch.export cannot capture the model."""

    code = "capture-failed"
    exit_status = 3


class NotFiniteValueError(EdgecompileError):
    """The model computes NaN or infinity for a calibration sample."""

    code = "value-not-finite"
    exit_status = 3


class NothingToPruneError(EdgecompileError):
    """A model without channels that can be removed, or without weights that can become zero."""

    code = "nothing-to-prune"
    exit_status = 3


class NotEmbeddableError(EdgecompileError):
    """A platform has no type for an input or output, or none for its shape."""

    code = "not-embeddable"
    exit_status = 3


class LoweringFailedError(EdgecompileError):
    """An emitter or its library cannot lower an operator of the program."""

    code = "lowering-failed"
    exit_status = 3


# --- a gate failed: exit status 4 -----------------------------------------------------------------


class PruningTargetNotMetError(EdgecompileError):
    """Less can be removed than `--prune` asks for."""

    code = "pruning-target-not-met"
    exit_status = 4


class BudgetNotMetError(EdgecompileError):
    """A budget on accuracy or SQNR does not hold, whatever stays in float."""

    code = "budget-not-met"
    exit_status = 4


class GateFailedError(EdgecompileError):
    """A build is worse than its baseline by more than a gate allows."""

    code = "gate-failed"
    exit_status = 4


class ValidationFailedError(EdgecompileError):
    """An artifact misses a threshold that its target states."""

    code = "validation-failed"
    exit_status = 4


class SignatureMissingError(EdgecompileError):
    """A bundle that must be signed, and is not."""

    code = "signature-missing"
    exit_status = 4


class SignatureInvalidError(EdgecompileError):
    """A signature that is damaged, not the manifest's, or of a key that is not trusted."""

    code = "signature-invalid"
    exit_status = 4


class UnlistedFileError(EdgecompileError):
    """A signed bundle holds something that its manifest does not list."""

    code = "unlisted-file"
    exit_status = 4


class DecryptionFailedError(EdgecompileError):
    """An encrypted artifact that is damaged or was altered, or another key than the one it needs."""

    code = "decryption-failed"
    exit_status = 4


# --- a tool is missing: exit status 5 -------------------------------------------------------------


class ToolMissingError(EdgecompileError):
    """A program or Python package that this job needs is not installed."""

    code = "tool-missing"
    exit_status = 5


class EngineLibrariesMissingError(EdgecompileError):
    """An engine's libraries for another platform cannot be had."""

    code = "engine-libraries-missing"
    exit_status = 5


# --- the runner or device failed: exit status 6 ---------------------------------------------------


class RunnerBuildError(EdgecompileError):
    """CMake or the compiler rejects a runner."""

    code = "runner-build-failed"
    exit_status = 6


class RunnerFailedError(EdgecompileError):
    """A runner crashed, or ended without a report that can be read."""

    code = "runner-failed"
    exit_status = 6


class RunnerTimedOutError(EdgecompileError):
    """A runner did not end in time; it and all that it started were killed."""

    code = "runner-timed-out"
    exit_status = 6


class EngineFailedError(EdgecompileError):
    """An engine could not load or run an artifact."""

    code = "engine-failed"
    exit_status = 6


class DeviceNotFoundError(EdgecompileError):
    """`--on adb` does not lead to one device: none is attached, several are, or none has that serial."""

    code = "device-not-found"
    exit_status = 6


class DeviceUnreachableError(EdgecompileError):
    """A device that is there but lets nobody in: offline, unauthorized, or its ssh server refuses."""

    code = "device-unreachable"
    exit_status = 6


class DeviceUnsupportedError(EdgecompileError):
    """A device of an ABI that has no runner, or without a folder that can be written."""

    code = "device-unsupported"
    exit_status = 6


class DeviceFullError(EdgecompileError):
    """A device without space for what must be put there."""

    code = "device-full"
    exit_status = 6


class DeviceLostError(EdgecompileError):
    """A device that stopped to answer, in the middle of a run perhaps."""

    code = "device-lost"
    exit_status = 6


# --- a bug of ours: exit status 70 ----------------------------------------------------------------


class PassBrokeProgramError(EdgecompileError):
    """A pass left an invalid graph, or changed the program's signature."""

    code = "pass-broke-program"
    exit_status = 70


class PruningBrokeProgramError(EdgecompileError):
    """A pruned program does not compute what the whole one does with the same channels zeroed."""

    code = "pruning-broke-program"
    exit_status = 70


class InternalError(EdgecompileError):
    """Anything that no other class foresees."""

    code = "internal"
    exit_status = 70


# --- interrupted: exit status 130 -----------------------------------------------------------------


class InterruptedBuildError(EdgecompileError):
    """Ctrl-C or a termination signal."""

    code = "interrupted"
    exit_status = 130
