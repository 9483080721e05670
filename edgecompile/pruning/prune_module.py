"""`edgecompile.prune`: a smaller `nn.Module` for the user's own training, or for `build`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgecompile.capture import capture
from edgecompile.dataset import Sample, TensorSpec, checked_sample
from edgecompile.errors import CaptureFailedError, EmptyDataError, InvalidPruningError
from edgecompile.program import SourceModel
from edgecompile.progress import Progress, QuietProgress
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.choose_channels import choose_channels
from edgecompile.pruning.distill import distill_pruned
from edgecompile.pruning.least_squares import fit_layers
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.pruning.trainable import trainable
from edgecompile.pruning.zeroed_channels import prove
from edgecompile.setting import Setting
from edgecompile.signature import input_specs
from edgecompile.target import load_target

_PROVED_ON = 4


def prune(
    module: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    ratio: float,
    *,
    calibration: Iterable[torch.Tensor | tuple[torch.Tensor, ...]],
    target: str = "android-arm64",
    progress: Progress | None = None,
    **settings: Any,
) -> nn.Module:
    """Return a module without some channels, its weights fitted so that it gives what it gave before.

    The result is in inference mode. It has the parameters and buffers of the module by their names, only
    smaller, trains as the module does, takes any batch size where the module does, and can be built.

    Args:
        module: In inference mode its graph is captured; it is not changed.
        example_inputs: As it takes them, each with the batch as its first axis.
        ratio: How much of what pruning can save is to go, 0 to 1.
        calibration: Some 100 typical inputs, with the example inputs' shapes: a tensor, or a tuple of all.
            Where the module takes any batch size, each may be a batch.
        target: Whose table `pruning` says how.
        progress: Is told what is done.
        **settings: Instead of what that table says: `importance="l2"`, `exclude=("features.0*",)`.

    Raises:
        EdgecompileError: One class a case: the settings, the capture, the data, what can be pruned.
    """
    if not 0 <= ratio < 1:
        raise InvalidPruningError("the ratio is no share", expected="0 to 1, without 1", found=str(ratio))
    said = [Setting(name=f"pruning.{key}", value=value, origin="argument") for key, value in settings.items()]
    how = load_target(target, said).pruning
    shown = progress or QuietProgress()
    whole = _captured(module, _tuple(example_inputs))
    samples = list(islice(_samples(calibration, input_specs(whole)), how.samples))
    if not samples:
        raise EmptyDataError("pruning measures what channels matter on calibration data, and there is none")
    choice = choose_channels(whole, ratio, samples, how, shown)
    pruned = remove_channels(whole, find_groups(whole), choice.keep)
    prove(pruned, [sample.inputs for sample in samples[:_PROVED_ON]])
    if how.least_squares:
        pruned = fit_layers(pruned, samples, shown)
    pruned, findings = distill_pruned(pruned, samples, how, shown)
    for finding in findings:
        shown.note(finding.text)
    return trainable(pruned.exported, module)


def _captured(module: nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """Return the program of a module in inference mode, with any batch size where it can be had."""
    modes = {part: part.training for part in module.modules()}
    try:
        source = SourceModel(
            name=type(module).__name__, module=module.eval(), exported=None, example_inputs=example_inputs
        )
        try:
            return capture(source, dynamic_batch=True).exported
        except CaptureFailedError:  # what its batch size is belongs to the model
            return capture(source, dynamic_batch=False).exported
    finally:
        for part, mode in modes.items():  # parts of a module may differ, as frozen batch norms do
            part.training = mode


def _samples(calibration: Iterable[object], inputs: tuple[TensorSpec, ...]) -> Iterator[Sample]:
    """Yield samples that fit the inputs: those of a batch one by one, where any batch size will do."""
    index = 0
    for item in calibration:
        for values in _single(_tuple(item), inputs):
            yield checked_sample((values, None), inputs, index, "calibration")
            index += 1


def _single(values: tuple[Any, ...], inputs: tuple[TensorSpec, ...]) -> Iterable[tuple[Any, ...]]:
    """Return the samples of a batch; what is none as it is."""
    batches = {
        len(value)
        for value, spec in zip(values, inputs, strict=False)
        if isinstance(value, torch.Tensor) and value.dim() == len(spec.shape) and spec.shape[0] is None
    }
    if len(values) != len(inputs) or len(batches) != 1 or not all(map(torch.is_tensor, values)):
        return [values]
    return zip(*(value.split(1) for value in values), strict=False)


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
