"""Weights that are rounded up or down as their layer's output asks for."""

import dataclasses

import pytest
import torch
from quantized_net import SETTINGS, quantized_beside_float
from torch import nn

from edgecompile.dataset import Sample
from edgecompile.progress import QuietProgress
from edgecompile.quantize import adaptive_rounding
from edgecompile.quantize.adaptive_rounding import round_adaptive
from edgecompile.quantize.correct_weights import correct_weights
from edgecompile.quantize.layer_walk import walk_layers
from edgecompile.quantize.layers import quantized_layers
from edgecompile.quantize.reference import Reference

NETS = {
    "relu": (nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)), (1, 6, 12, 12)),
    "relu6": (nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU6()), (1, 6, 12, 12)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, stride=2, bias=False), (1, 6, 19, 19)),
    "grouped": (nn.Conv2d(8, 12, 3, groups=2, dilation=2), (1, 8, 12, 12)),
    "one dimension": (nn.Conv1d(6, 9, 5, stride=2, padding=1), (1, 6, 60)),
    "linear": (nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 7)), (1, 8, 40)),
}
ADAPTIVE = {"weight_rounding": "adaptive", "rounding_steps": 300}


def converted(name, **settings):
    """Return the float program, the quantized program without corrections, and samples."""
    module, shape = NETS[name]
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    plain = {"weight_rounding": "nearest", "bias_correction": False, "weight_bits": 3}
    in_float, program = quantized_beside_float(module, *shape, **plain | settings)
    generator = torch.Generator().manual_seed(5)
    values = [torch.rand(shape, generator=generator) - torch.rand(1, generator=generator) for _ in range(30)]
    return in_float, program, [Sample(inputs=(value,), label=None) for value in values]


def corrected(name, **settings):
    in_float, program, samples = converted(name)
    chosen = dataclasses.replace(SETTINGS, weight_bits=3, bias_correction=False, **ADAPTIVE | settings)
    return correct_weights(program, in_float, samples, chosen, QuietProgress())


def error(program, in_float, samples):
    """Return the sum of the squared differences from float at the outputs."""
    reference, module = Reference(program.exported), in_float.exported.module(check_guards=False)
    with torch.no_grad():
        pairs = [(reference.run(sample.inputs)[0], module(*sample.inputs)) for sample in samples]
    return float(sum((found - wanted).square().sum() for found, wanted in pairs))


def searches(name, steps, seconds=1e9, limit=3):
    """Return what the search gives for each layer, with the weight that it began with."""
    in_float, program, samples = converted(name)
    found = []

    def change(stop):
        weights = stop.layer.weights
        found.append(
            (
                weights.weight,
                round_adaptive(stop, weights.weight, weights.bias, limit=limit, steps=steps, seconds=seconds),
            )
        )
        return weights

    inputs = [sample.inputs for sample in samples]
    walk_layers(program.exported, in_float.exported, inputs, change, QuietProgress())
    return found


@pytest.mark.parametrize("name", NETS)
def test_it_loses_less_than_rounding_to_the_nearest(name):
    in_float, nearest, samples = converted(name)
    assert error(corrected(name), in_float, samples) < 0.8 * error(nearest, in_float, samples)


@pytest.mark.parametrize("name", NETS)
def test_no_layer_is_worse_than_compensated_on_samples_that_it_did_not_see(name):
    for start, found in searches(name, steps=300):
        assert found.loss <= 1
        assert found.steps == 300
        assert (found.loss < 1) == (not torch.equal(found.integers, start))


@pytest.mark.parametrize("name", NETS)
def test_each_weight_is_rounded_down_or_up(name):
    in_float, _, _ = converted(name)
    floats = [value for value in in_float.exported.state_dict.values() if value.dim() > 1]
    _, program, _ = converted(name)
    layers = [layer for layer in quantized_layers(program.exported) if layer.weights is not None]
    found = searches(name, steps=100)
    for weight, layer, (_, rounded) in zip(floats, layers, found, strict=True):
        scales = layer.weights.scales.reshape(-1, *[1] * (weight.dim() - 1))
        assert rounded.integers.dtype == torch.int8
        assert int(rounded.integers.abs().max()) <= 3
        assert float((rounded.integers - weight / scales).abs().max()) < 1 + 1e-4


def test_a_search_without_time_keeps_the_start():
    for start, found in searches("relu", steps=300, seconds=0.0):
        assert found.steps == 0
        assert torch.equal(found.integers, start)


def test_a_search_with_little_time_takes_fewer_steps_and_ends_its_course(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(adaptive_rounding.time, "monotonic", lambda: next(ticks))
    (_, found), _ = searches("relu", steps=10**4, seconds=200)
    assert 0 < found.steps < 250
    assert found.loss < 1


def test_time_that_was_too_short_is_a_finding():
    short = corrected("relu", rounding_minutes=1e-9)
    enough = corrected("relu", rounding_minutes=10.0)
    assert [row.code for row in short.findings] == ["rounding-time-up"]
    assert "2 of 2 layers" in short.findings[0].text
    assert not enough.findings


def test_the_same_data_gives_the_same_weights():
    first, second = (quantized_layers(corrected("relu6").exported) for _ in range(2))
    for old, new in zip(first, second, strict=True):
        assert torch.equal(old.weights.weight, new.weights.weight)
