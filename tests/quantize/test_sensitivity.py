"""Sensitivity: a program with some roundings on and others off, and what each costs."""

import math
from itertools import pairwise

import pytest
import torch
from quantized_net import Net, quantized_beside_float
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.dataset import Sample
from edgecompile.quantize.float_sets import FloatSets
from edgecompile.quantize.layers import QuantizationParameters, quantized_layers
from edgecompile.quantize.reference import dequantize_tensor, quantize_tensor
from edgecompile.quantize.sensitivity import measure_sample, rounded_parts
from edgecompile.quantize.simulation import Simulation, rounded_value
from edgecompile.sensitivity import PartName, sensitivity_report


def network():
    torch.manual_seed(1)
    parts = {"first": nn.Conv2d(3, 8, 3), "second": nn.Conv2d(8, 8, 1), "last": nn.Conv2d(8, 5, 1)}

    def function(net, x):
        x = F.relu(net.first(x))
        return net.last(F.max_pool2d(x + F.hardswish(net.second(x)), 2)).mean([2, 3])

    return Net(function, **parts)


@pytest.fixture(scope="module")
def made():
    in_float, program = quantized_beside_float(network(), 1, 3, 9, 9)
    simulation = Simulation(program.exported, in_float.exported)
    generator = torch.Generator().manual_seed(3)
    samples = [
        Sample(inputs=(torch.randn(1, 3, 9, 9, generator=generator),), label=label) for label in (0, 1, 4)
    ]
    return in_float.exported, program, simulation, samples


def run(exported, sample):
    with torch.no_grad():
        return exported.module(check_guards=False)(*sample.inputs)


def report_of(simulation, samples):
    parts = rounded_parts(simulation)
    measured = [measure_sample(simulation, parts, sample) for sample in samples]
    names = [PartName(name=part.name, kind=part.kind, where=part.where) for part in parts]
    return sensitivity_report(names, measured), measured


def test_all_roundings_are_the_program_and_none_are_the_float_program(made):
    in_float, program, simulation, samples = made
    for sample in samples:
        with torch.no_grad():
            none, every = (simulation.run(sample.inputs, rounded=rounded) for rounded in (False, True))
        torch.testing.assert_close(simulation.outputs(none)[0], run(in_float, sample))
        step = quantized_layers(program.exported)[-1].output_parameters.scale
        difference = (simulation.outputs(every)[0] - run(program.exported, sample)).abs().max()
        assert difference <= step * 1.001  # sums in another order may round to the other side


def test_switching_all_one_by_one_is_the_same_as_all_at_once(made):
    _, _, simulation, (sample, *_) = made
    every = [node for part in rounded_parts(simulation) for node in part.roundings]
    with torch.no_grad():
        none, rounded = (simulation.run(sample.inputs, rounded=value) for value in (False, True))
        there = simulation.outputs_with(none, every, rounded=False)
        back = simulation.outputs_with(rounded, every, rounded=True)
        nothing = simulation.outputs_with(rounded, (), rounded=True)
    assert torch.equal(there[0], simulation.outputs(rounded)[0])
    assert torch.equal(back[0], simulation.outputs(none)[0])
    assert torch.equal(nothing[0], simulation.outputs(rounded)[0])


def test_one_rounding_against_brute_force(made):
    in_float, program, simulation, samples = made
    report, _ = report_of(simulation, samples)
    last = quantized_layers(program.exported)[-1]
    signal = noise = 0.0
    for sample in samples:
        value = run(in_float, sample)
        parameters = last.output_parameters
        rounded = dequantize_tensor(quantize_tensor(value, parameters), parameters)
        signal += float(value.double().square().sum())
        noise += float((rounded.double() - value).square().sum())
    (row,) = (row for row in report.rows if row.name == last.name)
    assert row.alone_sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=0.01)
    assert not row.has_weights and row.weights_sqnr_db is None


def test_rows_are_the_layers_the_inputs_and_what_float_gives(made):
    _, _, simulation, samples = made
    report, measured = report_of(simulation, samples)
    kinds = [row.kind for row in report.rows]
    assert kinds == ["input", "conv2d", "conv2d", "hardswish", "add", "max_pool2d", "conv2d", "mean", "view"]
    assert [row.has_weights for row in report.rows] == [kind == "conv2d" for kind in kinds]
    signal = sum(item.signal for item in measured)
    noise = sum(item.rounded.noise for item in measured)
    assert report.sqnr_db == pytest.approx(10 * math.log10(signal / noise))
    alone = sum(tried.noise for item in measured for tried in item.alone.values())
    assert 0.3 < alone / noise < 3  # they add up, about


def test_accuracy_is_that_of_the_labels(made):
    in_float, _, simulation, samples = made
    report, _ = report_of(simulation, samples)
    right = sum(int(run(in_float, sample).argmax()) == sample.label for sample in samples)
    assert report.float_accuracy == pytest.approx(right / 3)
    assert all(row.alone_accuracy is not None for row in report.rows)
    unlabelled = [Sample(inputs=sample.inputs, label=None) for sample in samples]
    report, _ = report_of(simulation, unlabelled)
    assert report.accuracy is None and report.rows[0].without_accuracy is None


def test_a_rounded_value_is_that_of_torch():
    value = torch.randn(1000) * 3
    to = QuantizationParameters(scale=0.05, zero_point=-7, quant_min=-128, quant_max=127)
    expected = torch.fake_quantize_per_tensor_affine(value, 0.05, -7, -128, 127)
    assert torch.equal(rounded_value(value, to), expected)


@pytest.fixture(scope="module")
def sets(made):
    _, program, simulation, samples = made
    return FloatSets(program, report_of(simulation, samples)[0])


def test_sets_grow_from_none_to_all_and_their_noise_falls(sets):
    sequence = sets.sequence()
    assert sequence[0].layers == () and set(sequence[-1].layers) == set(sets.layers)
    for smaller, larger in pairwise(sequence):
        assert set(smaller.layers) < set(larger.layers)
        assert larger.noise <= smaller.noise
    assert sequence[-1].noise == pytest.approx(0, abs=1e-12)


def test_a_value_is_free_where_all_around_it_is_in_float(sets):
    named = {layer.name: layer for layer in sets.layers}
    assert set(named) == {
        "conv2d",
        "hardswish",
        "conv2d_1",
        "add",
        "conv2d_2",
        "mean",
    }  # the pooling only moves values
    around = {named["add"], named["conv2d_2"]}
    assert [layer.name for layer in sets.whole(around)] == ["add", "max_pool2d", "conv2d_2"]
    assert [layer.name for layer in sets.whole({named["add"]})] == ["add"]
    apart = sum(sets.noise(()) - sets.noise({layer}) for layer in around)
    assert sets.noise(()) - sets.noise(around) > apart * 1.01


def test_costs_are_shares_of_layers_and_of_the_work(sets):
    assert sum(map(sets.cost, sets.layers)) == pytest.approx(2)
    assert sum(map(sets.mac_share, sets.layers)) == pytest.approx(1)
