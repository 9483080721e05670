"""What the lite interpreter runs is right whatever strides its kernels return."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitters.torchscript_lite import TorchscriptLite as Emitter
from edgecompile.engines.torchscript_lite import TorchscriptLite
from edgecompile.graph_pass import run_passes
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.reference import Reference
from edgecompile.quantize.static_int8 import quantize
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")


class Attention(nn.Module):
    """Heads are parted and joined around an operator in float, between quantized layers."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.join = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (part(x).unflatten(2, (2, 4)).transpose(1, 2) for part in self.parts)
        return self.join(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class Clamped(nn.Module):
    """A clamp that saturation does not do, after a convolution, and one between values of one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardtanh(self.last(functional.hardtanh(self.first(x), -0.4, 0.2)), -0.3, 0.2)


def test_a_clamp_after_a_convolution_keeps_the_order_of_the_elements():
    torch.manual_seed(0)
    network = Clamped().eval()
    samples = tuple(Sample(inputs=(torch.randn(1, 3, 8, 8),), label=None) for _ in range(4))
    source = SourceModel(name="net", module=network, exported=None, example_inputs=samples[0].inputs)
    program = run_passes(capture(source, dynamic_batch=False), [entry.name for entry in TARGET.passes])
    # Symmetric ranges are wider than what the clamps leave.
    settings = dataclasses.replace(TARGET.quantization, activation_symmetry="symmetric")
    quantized = quantize(program, Dataset(samples=samples, spec="noise"), settings, QuietProgress())
    emitted = Emitter.emit(quantized, TARGET.emit["ptl"])
    assert emitted.operators["aten::clamp"] == 2
    for sample in samples:
        (found,) = TorchscriptLite.load(emitted.data, precise=False).run(sample.inputs)
        (expected,) = Reference(quantized.exported, "qnnpack").run(sample.inputs)
        assert torch.equal(found, expected)


def test_int8_attention_runs():
    torch.manual_seed(0)
    network = Attention().eval()
    samples = tuple(Sample(inputs=(torch.randn(1, 6, 8),), label=None) for _ in range(4))
    source = SourceModel(name="net", module=network, exported=None, example_inputs=samples[0].inputs)
    program = run_passes(capture(source, dynamic_batch=False), [entry.name for entry in TARGET.passes])
    quantized = quantize(
        program, Dataset(samples=samples, spec="noise"), TARGET.quantization, QuietProgress()
    )
    emitted = Emitter.emit(quantized, TARGET.emit["ptl"])
    assert emitted.operators["quantized::linear"] == 4
    (found,) = TorchscriptLite.load(emitted.data, precise=False).run(samples[0].inputs)
    with torch.no_grad():
        torch.testing.assert_close(found, network(*samples[0].inputs), rtol=0, atol=0.05)
