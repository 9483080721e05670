"""Weights that are rounded with their errors in view, and biases that take up what is left."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_net import SETTINGS, quantized_beside_float
from torch import nn

from edgecompile.dataset import Sample
from edgecompile.progress import QuietProgress
from edgecompile.quantize.correct_weights import correct_weights, round_compensated
from edgecompile.quantize.layers import quantized_layers
from edgecompile.quantize.reference import Reference, dequantize_tensor

NETS = {
    "plain": (nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)), (1, 6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, stride=2, bias=False), (1, 6, 9, 9)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=2, dilation=2), (1, 8, 9, 9)),
    "one dimension": (nn.Conv1d(6, 9, 5, stride=2, padding=1), (1, 6, 20)),
    "linear": (nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 7)), (4, 40)),
}


def corrected(name, rounding="compensated", bias=True):
    """Return the float program, the program as converted and as corrected, and the samples."""
    module, shape = NETS[name]
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    plain = {"weight_rounding": "nearest", "bias_correction": False, "weight_bits": 4}
    in_float, program = quantized_beside_float(module, *shape, **plain)
    generator = torch.Generator().manual_seed(5)
    # What feeds a layer is never white: here its channels have much in common.
    samples = [Sample(inputs=((common(shape, generator)),), label=None) for _ in range(24)]
    chosen = dataclasses.replace(SETTINGS, weight_bits=4, weight_rounding=rounding, bias_correction=bias)
    return in_float, program, correct_weights(program, in_float, samples, chosen, QuietProgress()), samples


def common(shape, generator):
    own, shared = (torch.rand(size, generator=generator) for size in (shape, (1,)))
    return own * 0.5 + shared


def error(program, in_float, samples):
    """Return the sum of the squared differences from float at the outputs."""
    reference, module = Reference(program.exported), in_float.exported.module(check_guards=False)
    with torch.no_grad():
        pairs = [(reference.run(sample.inputs)[0], module(*sample.inputs)) for sample in samples]
    return float(sum((found - wanted).square().sum() for found, wanted in pairs))


@pytest.mark.parametrize("name", NETS)
def test_weights_in_four_bits_lose_less(name):
    in_float, before, after, samples = corrected(name)
    assert error(after, in_float, samples) < 0.8 * error(before, in_float, samples)


@pytest.mark.parametrize("name", NETS)
def test_only_integers_and_biases_change(name):
    _, before, after, _ = corrected(name)
    for old, new in zip(quantized_layers(before.exported), quantized_layers(after.exported), strict=True):
        assert (old.input_parameters, old.output_parameters) == (new.input_parameters, new.output_parameters)
        if old.weights is None:
            continue
        assert torch.equal(old.weights.scales, new.weights.scales)
        assert new.weights.weight.dtype == torch.int8
        assert int(new.weights.weight.abs().max()) <= 7
        assert int((old.weights.weight.int() - new.weights.weight.int()).abs().max()) <= 2
        steps = new.weights.bias.double() / (new.weights.scales.double() * new.input_parameters[0].scale)
        assert (steps - steps.round()).abs().max() < 1e-3


def test_a_shifted_output_is_shifted_back():
    in_float, before, after, samples = corrected("linear", rounding="nearest")
    last_before, last_after = (quantized_layers(item.exported)[-1] for item in (before, after))
    assert torch.equal(last_before.weights.weight, last_after.weights.weight)

    def shift(program):
        module, found = in_float.exported.module(check_guards=False), []
        for sample in samples:
            outputs = []
            Reference(program.exported).run(
                sample.inputs,
                lambda layer, _, output, outputs=outputs: outputs.append(
                    dequantize_tensor(output, layer.output_parameters)
                ),
            )
            with torch.no_grad():
                found.append((outputs[-1] - module(*sample.inputs)).mean(0))
        return torch.stack(found).median(0).values.abs().mean()

    assert shift(after) < 0.35 * shift(before)


def test_the_same_data_gives_the_same_weights():
    first, second = (corrected("plain")[2] for _ in range(2))
    for old, new in zip(quantized_layers(first.exported), quantized_layers(second.exported), strict=True):
        assert torch.equal(old.weights.weight, new.weights.weight)
        assert torch.equal(old.weights.bias, new.weights.bias)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), groups=st.integers(1, 3), columns=st.integers(40, 300))
def test_compensated_rounding_changes_outputs_less(seed, groups, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, 8, columns, generator=generator)
    mixing = torch.randn(groups, columns, columns, generator=generator) / columns**0.5
    read = torch.randn(groups, 500, columns, generator=generator) @ mixing
    second = read.transpose(1, 2) @ read / 500
    scales = weight.abs().amax(2) / 7
    found, nearest = round_compensated(weight, second, scales, 7), (weight / scales[:, :, None]).round()
    assert torch.equal(found, found.round())
    assert found.abs().max() <= 7

    def loss(integers):
        difference = integers * scales[:, :, None] - weight
        return float(torch.einsum("grk,gkl,grl->", difference, second, difference))

    assert loss(found) < loss(nearest)


def test_columns_that_have_nothing_in_common_are_rounded_to_the_nearest():
    weight = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0))
    second = torch.diag_embed(torch.rand(2, 30) + 0.1)
    scales = weight.abs().amax(2) / 7
    nearest = (weight / scales[:, :, None]).round()
    assert torch.equal(round_compensated(weight, second, scales, 7), nearest)
