"""Builds a small network for every format, and checks each artifact as `edgecompile validate` does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from quantized_net import SETTINGS, TARGET
from torch import nn

from edgecompile.artifact import Emitted
from edgecompile.artifact_run import in_python
from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitter import load_emitter
from edgecompile.evaluate import Quality, evaluate
from edgecompile.graph_pass import run_passes
from edgecompile.layer_check import check_layers
from edgecompile.program import QuantizedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import quantize

FORMATS = ("pte", "ptl", "onnx")
MakeInputs = Callable[[torch.Generator], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of a network: its quantized program, its artifacts, and their quality, by format."""

    program: QuantizedProgram
    emitted: dict[str, Emitted]
    quality: dict[str, Quality]


def check_every_engine(
    module: nn.Module, *shape: int, samples: int = 3, inputs: MakeInputs | None = None, least_db: float = 10
) -> Checked:
    """Build a network in INT8; assert that each artifact meets the target's thresholds, layers included.

    And that the reference is `least_db` from float at least: an artifact as far as its reference says nothing
    of a reference that is wrong.
    """
    module.eval()
    make = inputs or (lambda generator: (torch.randn(shape, generator=generator),))
    calibration = [make(torch.Generator().manual_seed(seed)) for seed in range(samples)]
    source = SourceModel(name="net", module=module, exported=None, example_inputs=calibration[0])
    captured = run_passes(capture(source, dynamic_batch=False), [entry.name for entry in TARGET.passes])
    data = Dataset(samples=tuple(Sample(inputs=item, label=None) for item in calibration), spec="random")
    program = quantize(captured, data, SETTINGS, QuietProgress())
    given = [
        Sample(inputs=make(torch.Generator().manual_seed(100 + seed)), label=None) for seed in range(samples)
    ]
    with torch.no_grad():
        floats = [
            torch.utils._pytree.tree_leaves(module(*(value.clone() for value in sample.inputs)))
            for sample in given
        ]
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
        assert row.reference is None or (row.reference.sqnr_db or math.inf) > least_db, (name, row)
        quality[name] = row
        place = lambda form, engine, data: in_python(form, engine, data, precise=True)  # noqa: E731
        layers = check_layers(
            program.exported, settings, given, TARGET.validation, QuietProgress(), place=place
        )
        assert all(layer.passed for layer in layers), (name, [item for item in layers if not item.passed])
    return Checked(program=program, emitted=emitted, quality=quality)
