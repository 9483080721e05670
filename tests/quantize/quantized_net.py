"""Small networks, quantized on random data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.graph_pass import run_passes
from edgecompile.program import CapturedProgram, Precision, QuantizedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.layers import QuantizedLayer, quantized_layers
from edgecompile.quantize.static_int8 import quantize
from edgecompile.target import QuantizationSettings, load_target

TARGET = load_target("linux-x86-64")
SETTINGS = dataclasses.replace(
    TARGET.quantization,
    weight_bits=8,
    weight_granularity="per-channel",
    activation_observer="min-max",
    calibration_samples=8,
)


class Net(nn.Module):
    """A function of one or two inputs as a network, with modules or buffers as keyword arguments."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def quantized(
    module: nn.Module, *shape: int, seed: int = 0, samples: int = 3, **settings: Any
) -> QuantizedProgram:
    """Capture, run the target's passes, and quantize on normal samples."""
    return quantized_beside_float(module, *shape, seed=seed, samples=samples, **settings)[1]


def quantized_beside_float(
    module: nn.Module, *shape: int, seed: int = 0, samples: int = 3, **settings: Any
) -> tuple[CapturedProgram, QuantizedProgram]:
    """Return the float program that was quantized, and the quantized one."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator) for _ in range(samples)]
    program = rewritten(module, *shape)
    data = Dataset(samples=tuple(Sample(inputs=(value,), label=None) for value in inputs), spec="random")
    chosen: QuantizationSettings = dataclasses.replace(SETTINGS, **settings)
    return program, quantize(program, data, chosen, QuietProgress())


def rewritten(module: nn.Module, *shape: int, precision: Precision = "int8") -> CapturedProgram:
    """Capture, and run the target's passes for a precision."""
    source = SourceModel(
        name="net", module=module.eval(), exported=None, example_inputs=(torch.zeros(shape),)
    )
    return run_passes(capture(source, dynamic_batch=False), TARGET.passes_for(precision))


def layers_of(program: QuantizedProgram) -> dict[str, QuantizedLayer]:
    """Return the quantized layers by their kind; of several of one kind the last."""
    return {layer.kind: layer for layer in quantized_layers(program.exported)}


def kinds(program: QuantizedProgram) -> list[str]:
    """Return the kinds of the quantized layers, in order."""
    return [layer.kind for layer in quantized_layers(program.exported)]


def in_float(program: QuantizedProgram) -> dict[str, str]:
    """Return what stays in float with the reasons, by the operator's name."""
    return {row.what.partition(" ")[0]: row.reason for row in program.unquantized}
