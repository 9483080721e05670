"""Activations quantized at run time: what is found, the arithmetic, and the engines layer by layer."""

import numpy as np
import pytest
import torch
from quantized_net import Net, rewritten
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.artifact_run import in_python
from edgecompile.dataset import Sample
from edgecompile.dynamic_check import is_one_activation
from edgecompile.layer_check import check_layers
from edgecompile.progress import QuietProgress
from edgecompile.quantize.dynamic_int8 import quantize_dynamic
from edgecompile.quantize.dynamic_layers import QUANTIZE_DYNAMIC, dynamic_layers, with_float_activations
from edgecompile.quantize.exact_dynamic import ExactDynamicLayer, quantize_at_run_time
from edgecompile.quantize.reference import Reference
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")
ARITHMETICS = ("exact", "xnnpack", "qnnpack")


def two_layers(net, x):
    return net.second(torch.relu(net.first(x)))


def program_of(function=two_layers, shape=(2, 6, 48), **parts):
    torch.manual_seed(0)
    parts = parts or {"first": nn.Linear(48, 40), "second": nn.Linear(40, 24, bias=False)}
    program = rewritten(Net(function, **parts), *shape, precision="int8-dynamic")
    return quantize_dynamic(program, TARGET.quantization)


def activations(shape, seed=0):
    """Values whose rows have very different ranges, one of zeros, one of positive values."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=generator) * torch.logspace(-3, 2, shape[-2])[:, None]
    value[..., 0, :] = 0
    value[..., 1, :] = value[..., 1, :].abs() + 1
    return value


def test_every_linear_layer_chooses_for_itself():
    program = program_of()
    assert program.precision == "int8-dynamic" and program.steps[-1].rewrites == 2
    layers = dynamic_layers(program.exported)
    assert [layer.name for layer in layers] == ["linear", "linear_1"]
    assert [tuple(layer.weights.weight.shape) for layer in layers] == [(40, 48), (24, 40)]
    assert (layers[0].weights.bias is None, layers[1].weights.bias is None) == (False, True)
    assert layers[1].source.name == "relu" and program.unquantized == ()


def test_linear_layers_over_pictures_stay_linear_layers():
    program = program_of(
        lambda net, x: two_layers(net, net.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        (1, 48, 4, 4),
        first=nn.Linear(48, 40),
        second=nn.Linear(40, 48),
        norm=nn.LayerNorm(48),
    )
    assert len(dynamic_layers(program.exported)) == 2


def test_what_stays_in_float_says_why():
    def function(net, x):
        features = net.conv(x).mean((2, 3))
        scores = features @ features.T
        return scores @ F.linear(net.last(features), features[:4, :5])

    vector = program_of(lambda net, x: net.layer(x), (48,), layer=nn.Linear(48, 4))
    (row,) = vector.unquantized
    assert row.reason == "its input is a single vector without a batch, which QNNPACK does not take"
    program = program_of(function, (4, 3, 8, 8), conv=nn.Conv2d(3, 8, 3), last=nn.Linear(8, 5))
    assert [layer.name for layer in dynamic_layers(program.exported)] == ["linear"]
    rows = [(row.what, row.reason) for row in program.unquantized]
    assert rows == [
        ("conv2d (conv2d)", "only linear layers are quantized at run time"),
        ("matmul (matmul)", "both its operands are computed at run time"),
        ("matmul (matmul_default)", "both its operands are computed at run time"),
        ("matmul (matmul_1)", "both its operands are computed at run time"),
    ]


def test_without_its_activations_the_program_only_has_its_weights():
    exported = with_float_activations(program_of().exported)
    assert not any(node.target is QUANTIZE_DYNAMIC for node in exported.graph.nodes)
    assert dynamic_layers(exported) == ()
    value = activations((2, 6, 48))
    kept = program_of().exported.module(check_guards=False)(value)
    assert 25 < snr_db(exported.module(check_guards=False)(value), kept) < 60


def snr_db(expected, found):
    return float(10 * torch.log10(expected.square().sum() / (expected - found).square().sum()))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_each_value_is_within_half_a_step(arithmetic):
    value = activations((3, 8, 50))
    steps, scale, zero_point = quantize_at_run_time(value, arithmetic)
    assert scale.dim() == (3 if arithmetic == "xnnpack" else 0), "only XNNPACK has one for each row"
    assert torch.equal(steps, steps.round()) and torch.equal(zero_point, zero_point.round())
    assert steps.max() - steps.min() <= 255
    assert (((steps - zero_point) * scale - value).abs() <= scale * 1.001).all(), "rounding, and the ends"
    inside = (steps > steps.min()) & (steps < steps.max())
    assert ((((steps - zero_point) * scale - value).abs() <= scale * 0.5001) | ~inside).all()
    zeros = torch.zeros(2, 5)
    steps, scale, zero_point = quantize_at_run_time(zeros, arithmetic)
    assert torch.equal((steps - zero_point) * scale, zeros)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_a_layer_is_integers_times_scales(arithmetic):
    layer = dynamic_layers(program_of().exported)[0]
    value = activations((2, 6, 48), seed=1)
    steps, scale, zero_point = (item.numpy() for item in quantize_at_run_time(value, arithmetic))
    sums = np.zeros((2, 6, 40), np.int64)
    shifted, weight = (steps - zero_point).astype(np.int64), layer.weights.weight.numpy().astype(np.int64)
    for output in range(40):
        sums[..., output] = (shifted * weight[output]).sum(-1)
    multiplier = scale.astype(np.float32) * layer.weights.scales.numpy()
    expected = sums.astype(np.float32) * multiplier + layer.weights.bias.numpy()
    output = ExactDynamicLayer(layer).compute((value,), arithmetic)
    np.testing.assert_array_equal(output.numpy(), expected)


def test_the_reference_is_as_good_as_the_program_and_better_with_a_range_for_each_row():
    program = program_of()
    value = activations((2, 6, 48), seed=2)
    plain = with_float_activations(program.exported).module(check_guards=False)(value)
    quality = {
        name: snr_db(plain[:, -1], outputs[0][:, -1])
        for name, outputs in Reference(program.exported, *ARITHMETICS).run_each((value,)).items()
    }
    small = {
        name: snr_db(plain[:, 2], outputs[0][:, 2])
        for name, outputs in Reference(program.exported, *ARITHMETICS).run_each((value,)).items()
    }
    assert min(quality.values()) > 30
    assert small["xnnpack"] > 30 > small["exact"], "the row of small values has steps of its own"


@pytest.mark.parametrize("target", ["linux-arm64", "linux-x86-64"])
@pytest.mark.parametrize("name", ["pte", "ptl", "onnx"])
def test_engines_compute_the_integers_of_the_reference(target, name):
    """Weights and values at the ends of their ranges: sums of two products would saturate in 16 bits."""
    parts = {"first": nn.Linear(48, 40), "second": nn.Linear(40, 24, bias=False)}
    with torch.no_grad():
        parts["first"].weight[:, ::2] = 0.5
    program = program_of(**parts)
    settings = load_target(target)
    samples = [Sample(inputs=(activations((2, 6, 48), seed) + 300 * seed,), label=None) for seed in range(3)]
    results = check_layers(
        program.exported,
        settings.emit[name],
        samples,
        settings.validation,
        QuietProgress(),
        place=lambda *artifact: in_python(*artifact, precise=target == "linux-arm64"),
    )
    assert [result.name for result in results] == ["linear", "linear_1"]
    for result in results:
        assert result.passed and result.within == 1 and result.largest_step <= 1
        assert result.identical > 0.9


def test_a_wrong_weight_is_found(monkeypatch):
    """The check is no formality: one integer more in one weight fails it."""
    program = program_of()
    exact = ExactDynamicLayer.compute

    def wrong(self, inputs, arithmetic):
        self.layer.weights.weight[0, 0] += 1
        return exact(self, inputs, arithmetic)

    monkeypatch.setattr(ExactDynamicLayer, "compute", wrong)
    samples = [Sample(inputs=(activations((2, 6, 48)),), label=None)] * 2
    results = check_layers(
        program.exported,
        TARGET.emit["ptl"],
        samples,
        TARGET.validation,
        QuietProgress(),
        place=lambda *artifact: in_python(*artifact, precise=False),
    )
    assert not results[0].passed and results[0].largest_step > 1


def test_one_activation_explains_a_row():
    weight = torch.randint(-127, 128, (24, 40), dtype=torch.int8)
    assert is_one_activation(weight[:, 7].double(), weight) and is_one_activation(
        -weight[:, 7].double(), weight
    )
    other = weight[:, 7].double()
    other[-1] += 1
    assert not is_one_activation(other, weight)
    assert not is_one_activation(2 * weight[:, 7].double(), weight)
