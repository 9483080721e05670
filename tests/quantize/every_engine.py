"""Builds a small network for every format, and checks each artifact as `edgecompile validate` does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from quantized_net import TARGET, quantized_beside_float
from torch import nn

from edgecompile.artifact import Emitted
from edgecompile.artifact_run import in_python
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.evaluate import Quality, evaluate
from edgecompile.layer_check import check_layers
from edgecompile.program import QuantizedProgram
from edgecompile.progress import QuietProgress

FORMATS = ("pte", "ptl", "onnx")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a network: its quantized program, its artifacts, and their quality, by format."""

    program: QuantizedProgram
    emitted: dict[str, Emitted]
    quality: dict[str, Quality]


def check_every_engine(module: nn.Module, *shape: int, samples: int = 3) -> Checked:
    """Build a network in INT8; assert that each artifact meets the target's thresholds, layers included."""
    module.eval()
    _, program = quantized_beside_float(module, *shape, samples=samples)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, generator=generator) for _ in range(samples)]
    with torch.no_grad():
        floats = [torch.utils._pytree.tree_leaves(module(value.clone())) for value in inputs]
    given = [Sample(inputs=(value,), label=None) for value in inputs]
    emitted, quality = {}, {}
    for name in FORMATS:
        settings = TARGET.emit[name]
        emitter = load_emitter(settings.emitter)
        emitted[name] = emitter.emit(program, settings)
        run = in_python(name, emitter.engine, emitted[name].data, precise=True)
        _, _, row = evaluate(
            program.exported,
            [run],
            given,
            [tuple(outputs) for outputs in floats],
            precision="int8",
            settings=TARGET.validation,
            progress=QuietProgress(),
        )
        assert row.missed == (), (name, row)
        quality[name] = row
        place = lambda form, engine, data: in_python(form, engine, data, precise=True)  # noqa: E731
        layers = check_layers(
            program.exported, settings, given, TARGET.validation, QuietProgress(), place=place
        )
        assert all(layer.passed for layer in layers), (name, [item for item in layers if not item.passed])
    return Checked(program=program, emitted=emitted, quality=quality)
