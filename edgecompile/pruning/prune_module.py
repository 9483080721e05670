"""`edgecompile.prune`: a smaller `nn.Module` for the user's own training, or for `build`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from edgecompile.capture import capture
from edgecompile.dataset import Sample
from edgecompile.errors import CaptureFailedError, EmptyDataError, InvalidPruningError
from edgecompile.program import SourceModel
from edgecompile.progress import Progress, QuietProgress
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.choose_channels import choose_channels
from edgecompile.pruning.least_squares import fit_layers
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.pruning.trainable import trainable
from edgecompile.pruning.zeroed_channels import prove
from edgecompile.setting import Setting
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
    inputs = (item if isinstance(item, tuple) else (item,) for item in calibration)
    samples = [Sample(inputs=tuple(tensor.detach() for tensor in item), label=None) for item in inputs]
    if not samples:
        raise EmptyDataError("pruning measures what channels matter on calibration data, and there is none")
    was_training = module.training
    try:
        source = SourceModel(
            name=type(module).__name__, module=module.eval(), exported=None, example_inputs=example_inputs
        )
        try:
            whole = capture(source, dynamic_batch=True).exported
        except CaptureFailedError:  # what its batch size is belongs to the model
            whole = capture(source, dynamic_batch=False).exported
    finally:
        module.train(was_training)
    choice = choose_channels(whole, ratio, samples[: how.samples], how, shown)
    pruned = remove_channels(whole, find_groups(whole), choice.keep)
    prove(pruned, [sample.inputs for sample in samples[:_PROVED_ON]])
    if how.least_squares:
        pruned = fit_layers(pruned, samples[: how.samples], shown)
    return trainable(pruned.exported, module)
