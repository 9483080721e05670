"""Layers fitted to what they gave before: exact where that is possible, never worse, never a crash."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured import Composed, grouped_on, noise, squared_error
from prune_program import grouped
from random_network import random_keep, random_network
from torch import nn
from torch.nn import functional

from edgecompile.dataset import Sample
from edgecompile.graph_edit import output_nodes, user_input_names
from edgecompile.progress import QuietProgress
from edgecompile.pruning import least_squares, refitted_layers, regression
from edgecompile.pruning.least_squares import fit_layers
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import all_values, peak_bytes


def doubled(layer):
    """Make each second output channel of a layer the one before it, times two."""
    axis = 1 if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
    with torch.no_grad():
        own = layer.weight.movedim(axis, 0)
        own[1::2] = 2 * own[0::2]
        if layer.bias is not None:
            layer.bias[1::2] = 2 * layer.bias[0::2]
    return layer


def filters_doubled(layer):
    """Make each second filter of a depthwise layer the one before it."""
    with torch.no_grad():
        layer.weight[1::2] = layer.weight[0::2]
        if layer.bias is not None:
            layer.bias[1::2] = 2 * layer.bias[0::2]
    return layer


def without_odd_units(found):
    keep = torch.ones(found.groups.count, dtype=torch.bool)
    for group in found.groups.groups:
        keep[group.units[1::2]] = False
    assert not bool(keep.all())
    return remove_channels(found.program, found.groups, keep)


def fitted(pruned, samples):
    result = fit_layers(pruned, samples, QuietProgress())
    result.exported.validate()
    assert user_input_names(result.exported) == user_input_names(pruned.exported)
    return result


def relu(*layers):
    parts = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*parts[:-1])


# Networks whose odd channels are twice the even ones, and the shape of their input.
REDUNDANT = {
    "conv": (lambda: relu(doubled(nn.Conv2d(3, 8, 3)), doubled(nn.Conv2d(8, 8, 3)), nn.Conv2d(8, 4, 1)), 2),
    "conv without bias": (
        lambda: relu(doubled(nn.Conv2d(3, 8, 3, bias=False)), nn.Conv2d(8, 4, 3, bias=False)),
        2,
    ),
    "grouped": (
        lambda: relu(
            doubled(nn.Conv2d(3, 16, 3)), doubled(nn.Conv2d(16, 16, 3, groups=2)), nn.Conv2d(16, 4, 1)
        ),
        2,
    ),
    "depthwise": (
        lambda: relu(
            doubled(nn.Conv2d(3, 8, 3)),
            filters_doubled(nn.Conv2d(8, 8, 3, groups=8)),
            filters_doubled(nn.Conv2d(8, 8, 3, groups=8, bias=False)),
            nn.Conv2d(8, 4, 1),
        ),
        2,
    ),
    "same padding": (
        lambda: relu(doubled(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, (4, 3), padding="same", dilation=(1, 2))),
        2,
    ),
    "valid padding": (lambda: relu(doubled(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 3, padding="valid")), 2),
    "strided": (
        lambda: relu(
            doubled(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 3, stride=(2, 1), padding=(0, 2), dilation=2)
        ),
        2,
    ),
    "transposed": (lambda: relu(doubled(nn.Conv2d(3, 8, 3)), nn.ConvTranspose2d(8, 4, 2, stride=2)), 2),
    "overlapping": (
        lambda: relu(
            doubled(nn.Conv2d(3, 8, 3)),
            doubled(nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)),
            nn.ConvTranspose2d(8, 4, 3, bias=False),
        ),
        2,
    ),
    "transposed in groups": (
        lambda: relu(doubled(nn.Conv2d(3, 8, 3)), nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)),
        2,
    ),
    "transposed depthwise": (
        lambda: relu(
            doubled(nn.Conv2d(3, 8, 3)),
            filters_doubled(nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)),
            nn.Conv2d(8, 4, 1),
        ),
        2,
    ),
    "one axis": (
        lambda: relu(
            doubled(nn.Conv1d(3, 8, 3, padding="same")),
            doubled(nn.Conv1d(8, 8, 3, stride=2, padding=1)),
            nn.ConvTranspose1d(8, 4, 4, stride=2),
        ),
        1,
    ),
}


@pytest.mark.parametrize("damping", [None, 1e-7])
@pytest.mark.parametrize("name", REDUNDANT)
def test_what_the_others_make_up_for_costs_nothing(name, damping, monkeypatch):
    """Exactly where nothing pulls the weights back, and nearly as it is."""
    if damping is not None:
        monkeypatch.setattr(regression, "_DAMPINGS", (damping,))
    torch.manual_seed(1)
    make, axes = REDUNDANT[name]
    samples = noise(1, 3, *[12] * axes, count=20)
    found = grouped_on(make(), samples)
    pruned = without_odd_units(found)
    after = fitted(pruned, samples).exported
    others = noise(1, 3, *[12] * axes, count=4, seed=1)
    assert squared_error(pruned.exported, found.program, others) > 1e-2
    assert squared_error(after, found.program, others) < (1e-4 if damping is None else 1e-9)


def test_a_linear_layer_over_three_axes():
    torch.manual_seed(2)
    samples = noise(2, 5, 6)
    found = grouped_on(relu(doubled(nn.Linear(6, 8)), doubled(nn.Linear(8, 8)), nn.Linear(8, 3)), samples)
    pruned = without_odd_units(found)
    assert squared_error(pruned.exported, found.program, samples) > 1e-2
    assert squared_error(fitted(pruned, samples).exported, found.program, samples) < 1e-4


def test_channels_that_pass_through_a_linear_layer_along_another_axis():
    """As tokens are mixed: the positions of the layer are channels, of which some are gone."""
    torch.manual_seed(3)
    network = Composed(
        lambda own, x: own.last(functional.relu(own.mix(own.first(x).transpose(1, 2)).transpose(1, 2))),
        first=doubled(nn.Linear(6, 8)),
        mix=nn.Linear(10, 10),
        last=nn.Linear(8, 4),
    )
    samples = noise(1, 10, 6, count=20)
    found = grouped_on(network, samples)
    pruned = without_odd_units(found)
    after = fitted(pruned, samples).exported
    assert torch.allclose(constants_of(after)["p_mix_weight"], network.mix.weight, atol=1e-4)
    assert squared_error(after, found.program, samples) < 0.5 * squared_error(
        pruned.exported, found.program, samples
    )


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.booleans(), st.integers(0, 99))
def test_no_network_is_worse_than_before(data, is_dynamic, seed):
    network = random_network(lambda several: data.draw(st.sampled_from(list(several))))
    samples = noise(2, 3, 8, 8, count=20, seed=seed)
    found = grouped_on(network, samples, dynamic_batch=is_dynamic)
    pruned = remove_channels(found.program, found.groups, random_keep(found.groups, seed, 0.4))
    after = fitted(pruned, samples).exported
    others = noise(2, 3, 8, 8, count=6, seed=seed + 100)
    before = squared_error(pruned.exported, found.program, others)
    assert squared_error(after, found.program, others) <= 1.5 * before + 1e-6  # of other samples


def test_a_dynamic_batch_stays_dynamic():
    torch.manual_seed(4)
    samples = noise(1, 3, 8, 8)
    found = grouped_on(relu(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), samples, dynamic_batch=True)
    after = fitted(without_odd_units(found), samples).exported
    (output,) = output_nodes(after.graph)
    five = all_values(after, (torch.cat([sample.inputs[0] for sample in samples[:5]]),))[output]
    assert torch.allclose(five[2:3], all_values(after, samples[2].inputs)[output], atol=1e-5)


def test_more_samples_than_one_are_taken_as_one_batch_or_several():
    """A few samples of many pictures give what many samples do."""
    torch.manual_seed(5)
    network = relu(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)).eval()
    single = noise(1, 3, 2, 2, count=20)
    joined = [
        Sample(inputs=(torch.cat([sample.inputs[0] for sample in single[first : first + 5]]),), label=None)
        for first in range(0, 20, 5)
    ]
    errors = []
    for samples in (single, joined):
        found = grouped_on(network, samples)
        after = fitted(without_odd_units(found), samples).exported
        errors.append(squared_error(after, found.program, samples))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_a_layer_that_two_calls_share_stays():
    torch.manual_seed(6)
    network = Composed(
        lambda own, x: own.last(
            functional.relu(own.twice(functional.relu(own.twice(functional.relu(own.first(x))))))
        ),
        first=nn.Linear(6, 8),
        twice=nn.Linear(8, 8),
        last=nn.Linear(8, 4),
    )
    samples = noise(1, 6)
    pruned = without_odd_units(grouped_on(network, samples))
    before, after = (constants_of(each.exported) for each in (pruned, fitted(pruned, samples)))
    assert torch.equal(before["p_twice_weight"], after["p_twice_weight"])
    assert not torch.equal(before["p_last_weight"], after["p_last_weight"])


def test_a_weight_that_is_an_input_of_the_model_stays_one():
    torch.manual_seed(7)
    network = Composed(
        lambda own, x, weight: functional.linear(
            functional.relu(own.second(functional.relu(own.first(x)))), weight
        ),
        first=nn.Linear(6, 8),
        second=nn.Linear(8, 8),
    )
    samples = [Sample(inputs=(torch.randn(1, 6), torch.randn(3, 8)), label=None) for _ in range(12)]
    found = grouped(network, *samples[0].inputs)
    pruned = without_odd_units(found)
    after = fitted(pruned, samples).exported
    assert squared_error(after, found.program, samples) < squared_error(
        pruned.exported, found.program, samples
    )


def test_a_kernel_of_three_axes_is_left_alone():
    torch.manual_seed(8)
    samples = noise(1, 3, 4, 4, 4)
    found = grouped_on(relu(nn.Conv3d(3, 8, 3), nn.Conv3d(8, 4, 2)), samples)
    pruned = without_odd_units(found)
    assert constants_equal(pruned, fitted(pruned, samples))


def constants_equal(one, other):
    before, after = (constants_of(each.exported) for each in (one, other))
    return all(torch.equal(before[name], after[name]) for name in before)


def test_long_rows_are_left_alone(monkeypatch):
    monkeypatch.setattr(least_squares, "LONGEST_ROW", 15)
    samples = noise(1, 6)
    pruned = without_odd_units(grouped_on(relu(nn.Linear(6, 32), nn.Linear(32, 4)), samples))
    assert constants_equal(pruned, fitted(pruned, samples))


def test_means_much_larger_than_what_varies():
    torch.manual_seed(9)
    samples = [Sample(inputs=(sample.inputs[0] + 1e5,), label=None) for sample in noise(1, 6, count=20)]
    found = grouped_on(relu(nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)), samples)
    pruned = without_odd_units(found)
    after = fitted(pruned, samples).exported
    assert squared_error(after, found.program, samples) < 1e-3 * squared_error(
        pruned.exported, found.program, samples
    )


def test_a_value_that_is_not_finite_leaves_the_layer_as_it_is():
    network = Composed(
        lambda own, x: own.last(own.first(x).log()), first=nn.Linear(6, 8), last=nn.Linear(8, 4)
    )
    samples = noise(1, 6)
    pruned = without_odd_units(grouped_on(network, samples))
    assert constants_equal(pruned, fitted(pruned, samples))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_few_samples(count):
    torch.manual_seed(10)
    samples = noise(1, 3, 8, 8, count=count)
    found = grouped_on(relu(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), samples)
    pruned = without_odd_units(found)
    assert squared_error(fitted(pruned, samples).exported, found.program, samples) < squared_error(
        pruned.exported, found.program, samples
    )


class Told(QuietProgress):
    def finish(self, detail=""):
        self.detail = detail


def test_a_fit_that_leaves_the_outputs_further_off_is_not_kept(monkeypatch):
    samples = noise(1, 3, 8, 8)
    pruned = without_odd_units(grouped_on(relu(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), samples))
    monkeypatch.setattr(least_squares, "regressed", lambda start, *_: (10 * start.double(), start.sum(2)))
    progress = Told()
    assert fit_layers(pruned, samples, progress) is pruned
    assert progress.detail == "left as they are: the outputs would be further off, 12 samples"


def test_fewer_samples_are_used_where_their_values_take_too_much(monkeypatch):
    samples = noise(1, 3, 8, 8)
    pruned = without_odd_units(grouped_on(relu(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), samples))
    progress = Told()
    fit_layers(pruned, samples, progress)
    assert progress.detail == "1 of 1 layers, 12 samples"
    each = sum(peak_bytes(program, samples[0].inputs) for program in (pruned.whole, pruned.exported))
    monkeypatch.setattr(refitted_layers, "_ROOM_BYTES", 5 * each + 1)
    fit_layers(pruned, samples, progress)
    assert progress.detail == "1 of 1 layers, 5 samples of 12: the values of more take too much"


def test_peak_bytes_are_those_of_the_values_that_are_held_at_once():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    found = grouped(network, torch.zeros(1, 3, 10, 10))
    first = 8 * 8 * 8  # elements of what the first convolution gives; the relu's is beside it
    assert peak_bytes(found.program, found.inputs) == 4 * 2 * first
