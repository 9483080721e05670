"""What is done to the example models before quantization changes nothing in float."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import digits
import efficientnet_lite0
import mobilenet_v2
import resnet18

from edgecompile.capture import capture
from edgecompile.dataset import Sample
from edgecompile.graph_pass import run_passes
from edgecompile.program import CapturedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.fit_channels import find_fit, fitted
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")


def outputs(program: CapturedProgram, samples: list[Sample]) -> torch.Tensor:
    module = program.exported.module(check_guards=False)
    with torch.no_grad():
        return torch.cat([module(*sample.inputs) for sample in samples]).double()


def _inputs(item: torch.Tensor | tuple[torch.Tensor, int]) -> torch.Tensor:
    return item[0] if isinstance(item, tuple) else item


@pytest.mark.parametrize(
    "example", [digits, mobilenet_v2, efficientnet_lite0, resnet18], ids=lambda example: example.__name__
)
def test_passes_equalization_and_absorption_are_exact(example: ModuleType) -> None:
    network, example_inputs = example.model()
    source = SourceModel(
        name=example.__name__, module=network, exported=None, example_inputs=tuple(example_inputs)
    )
    captured = capture(source, dynamic_batch=False)
    after_passes = run_passes(captured, [entry.name for entry in TARGET.passes])
    known = [Sample(inputs=(item,), label=None) for item in example.calibration()]
    others = [Sample(inputs=(_inputs(item),), label=None) for item in islice(example.evaluation(), 0, 100, 6)]
    fit = find_fit(after_passes, known, TARGET.quantization, QuietProgress())
    after_fit = fitted(after_passes, fit)
    expected = outputs(captured, others)
    for program in (after_passes, after_fit):
        difference = outputs(program, others) - expected
        assert difference.norm() <= 1e-4 * expected.norm()
