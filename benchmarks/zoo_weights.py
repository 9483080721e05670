"""Random weights under which every layer of a network counts."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

Sample = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]

# Below it a scale leaves nothing of what it scales.
_DEAD = 1e-2


def settled(module: nn.Module, samples: Sequence[Sample], name: str) -> nn.Module:
    """Make a network lively, in place, and return it in eval mode.

    Where a published initialization would leave it half dead, with scales of 1e-6 or classifiers of zeros,
    weights get values of an ordinary size; batch norms get the statistics of the samples.

    Args:
        module: The network.
        samples: Its inputs, in the order of `forward` or by name, each with the batch first.
        name: Whose random numbers to take.
    """
    module.eval()
    with torch.no_grad():
        _revive(module, torch.Generator().manual_seed(zlib.crc32(name.encode())))
        _measure_batch_norms(module, samples)
    return module.eval()


def _call(module: nn.Module, sample: Sample) -> None:
    if isinstance(sample, Mapping):
        module(**sample)
    else:
        module(*sample)


def _revive(module: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("bias") or parameter.abs().max() > _DEAD:
            continue
        deviation = 0.05 if parameter.dim() > 1 else 0.1
        parameter.normal_(0.3 if parameter.dim() == 1 else 0.0, deviation, generator=generator)


def _measure_batch_norms(module: nn.Module, samples: Sequence[Sample]) -> None:
    norms = [item for item in module.modules() if isinstance(item, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    first = samples[0]
    if isinstance(first, Mapping):
        _call(module, {key: torch.cat([sample[key] for sample in samples]) for key in first})  # type: ignore[call-overload]
    else:
        _call(module, tuple(map(torch.cat, zip(*samples, strict=True))))
