"""What the default passes and the annotation make of small networks, as text that a person can review."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.graph_pass import run_passes
from edgecompile.program import CapturedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.layers import quantized_layers
from edgecompile.quantize.static_int8 import quantize
from edgecompile.target import load_target


class Residual(nn.Module):
    """Normalization, conv-bn-relu6, a residual addition, global pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem((x - 0.5) / 0.25)
        x = torch.relu(x + self.depthwise(x))
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Branches(nn.Module):
    """Asymmetric padding, max pooling, concatenation, and an operator that stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, stride=2)
        self.right = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = torch.clamp(self.left(nn.functional.pad(x, (0, 1, 0, 1))), 0, 1)
        right = nn.functional.max_pool2d(self.right(x), 2)
        return torch.softmax(torch.cat([left, right], 1).mean((2, 3)), 1)


def rewritten(network: nn.Module) -> CapturedProgram:
    torch.manual_seed(0)
    source = SourceModel(
        name="net", module=network.eval(), exported=None, example_inputs=(torch.rand(1, 3, 8, 8),)
    )
    names = [entry.name for entry in load_target("android-arm64").passes]
    return run_passes(capture(source, dynamic_batch=False), names)


def graph_text(program: CapturedProgram) -> str:
    return f"{program.exported.graph}\n" + "".join(
        f"{step.name}: {step.rewrites} rewrites, {len(step.declined)} declined\n" for step in program.steps
    )


def layer_text(program: CapturedProgram) -> str:
    # Scales depend on the last bits of this machine's float arithmetic; what is one unit does not.
    samples = tuple(Sample(inputs=(torch.rand(1, 3, 8, 8),), label=None) for _ in range(4))
    settings = load_target("android-arm64").quantization
    result = quantize(program, Dataset(samples=samples, spec="noise"), settings, QuietProgress())
    lines = [
        f"{layer.kind}: padding {layer.padding is not None}, clamp {layer.clamp_bounds}, "
        f"{len(layer.inputs)} inputs"
        for layer in quantized_layers(result.exported)
    ]
    lines += [f"float: {row.what}: {row.reason}" for row in result.unquantized]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("network", [Residual, Branches])
def test_program(network, check_golden):
    program = rewritten(network())
    name = network.__name__.lower()
    check_golden(f"{name}.graph.txt", graph_text(program))
    check_golden(f"{name}.layers.txt", layer_text(program))
