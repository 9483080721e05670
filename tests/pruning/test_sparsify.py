"""Zeros in weights: which ones, what the others make up for, and that they are there in the end."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.errors import NothingToPruneError, UnknownLayerError, UsageError
from edgecompile.graph_pass import run_passes
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.pruning.channel_groups import layer_name
from edgecompile.pruning.compensate_zeros import compensate_zeros
from edgecompile.pruning.count_zeros import with_found, zero_rows
from edgecompile.pruning.sparsify import lamp_scores, masks_of_share, sparse_layers, zeroed
from edgecompile.pruning.sparsity import Sparsity, parse_sparsity
from edgecompile.quantize.correct_weights import correct_weights
from edgecompile.quantize.distill import distill
from edgecompile.quantize.dynamic_int8 import quantize_dynamic
from edgecompile.quantize.fake_quantized import FakeQuantized
from edgecompile.quantize.fit_channels import find_fit, fitted
from edgecompile.quantize.layers import constants_of, quantized_layers
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.quantize.weights_only import quantize_weights
from edgecompile.quantize.zero_weights import zero_weights
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")


class Net(nn.Module):
    """A stem with a batch norm, a depthwise and a grouped layer, a transposed one, two linear layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.ReLU())
        self.grouped = nn.Conv2d(16, 24, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 10)
        self.stem[1].running_var.uniform_(0.1, 0.5)
        self.stem[1].weight.data.uniform_(-1, 1)

    def forward(self, x):
        x = self.up(functional.relu(self.grouped(self.depthwise(self.stem(x)))))
        return self.head(functional.relu(self.hidden(x.mean([2, 3]))))


def captured(module, *inputs):
    source = SourceModel(name="net", module=module.eval(), exported=None, example_inputs=inputs)
    return capture(source, dynamic_batch=False)


def samples_of(*shape, count=24):
    generator = torch.Generator().manual_seed(5)
    shared = torch.rand(shape, generator=generator)
    pictures = (torch.rand(shape, generator=generator) * 0.5 + shared for _ in range(count))
    return [Sample(inputs=(picture,), label=None) for picture in pictures]


SAMPLES = samples_of(1, 3, 12, 12)


@pytest.fixture(scope="module")
def net():
    return captured(Net(), SAMPLES[0].inputs[0])


def sparse(program, text, exclude=()):
    """Return a program with zeros, and those that the compensated one has."""
    layers = sparse_layers(program.exported, exclude)
    found = zeroed(program.exported, layers, parse_sparsity(text, "here"))
    return layers, found, compensate_zeros(program.exported, found, SAMPLES, QuietProgress())


def weights_of(exported):
    """Return the weight of each layer by its name."""
    constants = constants_of(exported)
    return {layer_name(node): constants[node.args[1].name] for node in sparse_layers(exported).weights}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", Sparsity(share=0.5)),
        ("1e-2", Sparsity(share=0.01)),
        ("2:4", Sparsity(share=0.5, pattern=(2, 4))),
        (" 1 : 16 ", Sparsity(share=15 / 16, pattern=(1, 16))),
    ],
)
def test_what_can_be_asked_for(text, expected):
    found = parse_sparsity(text, "here")
    assert found == expected
    assert parse_sparsity(found.text, "here") == found


WRONG = ("1.2", "1", "0", "-0.5", "nan", "abc", "", "5:4", "4:4", "0:4", "2:4:8", "2:65", "2:", "-2:4", "50%")


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot(text):
    with pytest.raises(UsageError, match="is no sparsity") as caught:
        parse_sparsity(text, "flag --sparsity")
    assert "above 0 and below 1" in caught.value.lines["expected"]
    assert "of M neighbouring weights along the input channels" in caught.value.lines["expected"]
    assert caught.value.lines["where"] == "sparsity: flag --sparsity"


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12))
def test_a_score_is_the_square_by_those_that_are_not_smaller(values):
    weight = torch.tensor(values)
    squares = weight.double().square()
    found = lamp_scores(weight)
    for place in squares.unique():
        own = found[squares == place].sort().values
        above = squares[squares > place].sum()
        # Equal weights have a score after the other.
        expected = [float(place / (above + place * (index + 1))) for index in reversed(range(len(own)))]
        if place > 1e-30:
            assert own.tolist() == pytest.approx(expected, rel=1e-9)
    assert float(found.max()) == pytest.approx(1.0) or not bool(weight.any())


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 100))
def test_a_share_is_met_and_the_least_of_each_layer_go(share, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator) * scale for size, scale in (((4, 3), 1), ((50,), 0.01))]
    masks = masks_of_share(weights, share)
    assert sum(int((~mask).sum()) for mask in masks) == min(round(share * 62), 60)
    for weight, mask in zip(weights, masks, strict=True):
        assert mask.any()
        assert mask.all() or weight[~mask].abs().max() <= weight[mask].abs().min()


def test_the_scale_of_a_layer_does_not_matter():
    weight, other = torch.randn(6, 5), torch.randn(40)
    first, second = (masks_of_share([weight * scale, other], 0.5) for scale in (1.0, 1e-4))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


LAYERS = {
    "linear": (nn.Linear(12, 5), (1, 12), 1),
    "leftover": (nn.Linear(10, 5), (1, 10), 1),
    "convolution": (nn.Conv2d(8, 6, 3), (1, 8, 5, 5), 1),
    "grouped": (nn.Conv1d(12, 6, 3, groups=2), (1, 12, 9), 1),
    "transposed": (nn.ConvTranspose2d(12, 4, 2, groups=2), (1, 12, 4, 4), 0),
}


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:8"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_largest_of_the_neighbours_stay(name, pattern):
    module, shape, axis = LAYERS[name]
    kept, of = map(int, pattern.split(":"))
    program = captured(module, torch.randn(shape))
    found = zeroed(program.exported, sparse_layers(program.exported), parse_sparsity(pattern, "here"))
    before, after = (constants_of(item)["p_weight"] for item in (program.exported, found))
    groups = 2 if name == "transposed" else 1
    for whole, rest in zip(before.chunk(groups), after.chunk(groups), strict=True):
        for all_of, left in zip(whole.split(of, axis), rest.split(of, axis), strict=True):
            rows, stays = all_of.movedim(axis, -1).flatten(0, -2), left.movedim(axis, -1).flatten(0, -2)
            wanted = min(kept, rows.shape[1])
            assert torch.equal((stays != 0).sum(1), torch.full((len(rows),), wanted))
            assert torch.equal(stays.abs().sort().values[:, -wanted:], rows.abs().sort().values[:, -wanted:])


def test_layers_without_zeros_say_why(net):
    layers = sparse_layers(net.exported, ("gr*",))
    assert [layer_name(node) for node in layers.weights] == ["stem.0", "up", "hidden", "head"]
    assert {row.what: row.reason for row in layers.declined} == {
        "depthwise.0": "it is depthwise: a filter of few weights sees one channel",
        "grouped": "pruning.exclude says so",
    }
    assert all("test_sparsify.py" in row.where for row in layers.declined)


def test_a_rule_for_no_layer(net):
    with pytest.raises(UnknownLayerError, match="there is no layer 'groupd'"):
        sparse_layers(net.exported, ("groupd",))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return functional.linear(self.layer(self.layer(x)), x.reshape(8, 8))


def test_shared_and_computed_weights_stay_as_they_are():
    program = captured(Shared(), torch.randn(8, 8))
    layers = sparse_layers(program.exported)
    reasons = {row.reason for row in layers.declined}
    assert reasons == {"its weight is used elsewhere too", "its weight is computed, not constant"}
    with pytest.raises(NothingToPruneError, match="no weight of the model can become zero") as caught:
        zeroed(program.exported, layers, Sparsity(share=0.5))
    assert "layer: its weight is used elsewhere too" in caught.value.lines["found"]


def test_layers_with_too_few_channels_for_a_pattern():
    program = captured(nn.Conv2d(2, 4, 3), torch.randn(1, 2, 5, 5))
    with pytest.raises(NothingToPruneError) as caught:
        zeroed(program.exported, sparse_layers(program.exported), parse_sparsity("2:4", "here"))
    assert "too few weights (4x2x3x3)" in caught.value.lines["found"]


def outputs_of(exported):
    module = exported.module(check_guards=False)
    with torch.no_grad():
        return torch.cat([module(*sample.inputs) for sample in SAMPLES])


@pytest.mark.parametrize("text", ["0.5", "0.8", "2:4"])
def test_the_other_weights_make_up_for_most(net, text):
    before = {name: weight.clone() for name, weight in weights_of(net.exported).items()}
    layers, plain, better = sparse(net, text)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(net.exported).items())
    zeros, found = weights_of(plain), weights_of(better)
    for name, weight in zeros.items():
        assert torch.equal(weight == 0, found[name] == 0)
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    rows = zero_rows(layers, plain)
    share = sum(row.zeros for row in rows) / sum(row.weights for row in rows)
    assert share == pytest.approx(0.5 if text == "2:4" else float(text), abs=0.03)
    wanted, lost, left = map(outputs_of, (net.exported, plain, better))
    assert (left - wanted).square().mean() < 0.1 * (lost - wanted).square().mean()


def test_kernels_of_three_dimensions_get_another_bias_alone():
    torch.manual_seed(0)
    program = captured(nn.Conv3d(4, 4, 3), torch.rand(1, 4, 5, 5, 5))
    samples = samples_of(1, 4, 5, 5, 5, count=4)
    plain = zeroed(program.exported, sparse_layers(program.exported), Sparsity(share=0.5))
    better = compensate_zeros(program.exported, plain, samples, QuietProgress())
    assert torch.equal(*(constants_of(item)["p_weight"] for item in (plain, better)))
    errors = [
        sum(item.module()(*one.inputs) - program.exported.module()(*one.inputs) for one in samples)
        for item in (plain, better)
    ]
    assert errors[1].mean((0, 2, 3, 4)).abs().max() < 1e-4 < errors[0].mean((0, 2, 3, 4)).abs().max()


@pytest.fixture(scope="module", params=["0.6", "2:4"])
def in_float(request, net):
    """A program with zeros after the passes, its channels fit for INT8; and the rows of its layers."""
    layers, plain, better = sparse(net, request.param)
    passes = [entry.name for entry in TARGET.passes]
    program = run_passes(dataclasses.replace(net, exported=better), passes)
    found = find_fit(program, SAMPLES, TARGET.quantization.with_whole_layers, QuietProgress())
    return zero_rows(layers, plain), fitted(program, found)


ROUNDINGS = {
    "nearest": {"weight_rounding": "nearest"},
    "compensated": {"weight_rounding": "compensated"},
    "adaptive": {"weight_rounding": "adaptive", "rounding_steps": 40},
    "distilled": {"distillation_steps": 20, "distillation_rate": 0.3},
    "four bits": {"weight_bits": 4, "weight_rounding": "adaptive", "rounding_steps": 40},
}


@pytest.mark.parametrize("name", ROUNDINGS)
def test_a_weight_that_is_zero_in_float_is_zero_in_integers(in_float, name):
    rows, program = in_float
    chosen = dataclasses.replace(TARGET.quantization, **ROUNDINGS[name])
    quantized = quantize(program, Dataset(spec="here", samples=tuple(SAMPLES)), chosen, QuietProgress())
    corrected = correct_weights(quantized, program, SAMPLES, chosen, QuietProgress())
    trained = distill(corrected, program, SAMPLES, chosen, QuietProgress())
    places = zero_weights(trained.exported, program.exported)
    integers = {item.name: item.weights.weight for item in quantized_layers(trained.exported) if item.weights}
    assert len(places) == 5  # the transposed one too: it is a convolution by then
    for layer, zeros in places.items():
        assert not integers[layer][zeros].any()
        assert integers[layer][~zeros].any()
    check_found(rows, trained, program)


def test_a_training_cannot_move_zeros(in_float):
    _, program = in_float
    data = Dataset(spec="here", samples=tuple(SAMPLES))
    quantized = quantize(program, data, TARGET.quantization, QuietProgress())
    places = zero_weights(quantized.exported, program.exported)
    student = FakeQuantized(quantized.exported, limit=127, learn_scales=False, zeros=places)
    for parameter in student.parameters:
        parameter.value.add_(20.0).requires_grad_()
    sum(output.sum() for output in student.outputs(SAMPLES[0].inputs, student.constants())).backward()
    trained = {item.name: item.weights for item in quantized_layers(student.written()) if item.weights}
    moved = {
        tuple(parameter.value.shape): parameter.value.grad == 0
        for parameter in student.parameters
        if parameter.value.dim() > 1
    }
    for name, zeros in places.items():
        assert not trained[name].weight[zeros].any()
        assert moved[tuple(zeros.shape)][zeros].all()


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic", "int8-weights", "int4-weights"])
def test_in_other_precisions_too(in_float, precision):
    rows, program = in_float
    chosen = dataclasses.replace(TARGET.quantization, weight_group_size=16)
    made = {
        "fp32": lambda: keep_float(program),
        "int8-dynamic": lambda: quantize_dynamic(program, chosen),
        "int8-weights": lambda: quantize_weights(program, chosen, bits=8),
        "int4-weights": lambda: quantize_weights(program, chosen, bits=4),
    }
    check_found(rows, made[precision](), program)


def check_found(rows, quantized, program):
    found = with_found(rows, quantized.exported, program.exported)
    assert [row.name for row in found] == ["stem.0", "grouped", "up", "hidden", "head"]
    assert all(row.found is not None and row.found >= row.zeros > 0 for row in found)
