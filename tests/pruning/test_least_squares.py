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
from edgecompile.pruning import least_squares
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
    "conv without bias": (lambda: relu(doubled(nn.Conv2d(3, 8, 3, bias=False)), nn.Conv2d(8, 4, 3, bias=False)), 2),
    "grouped": (
        lambda: relu(doubled(nn.Conv2d(3, 16, 3)), doubled(nn.Conv2d(16, 16, 3, groups=2)), nn.Conv2d(16, 4, 1)),
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
        lambda: relu(doubled(nn.Conv2d(3, 8, 3)), nn.Conv2d(8, 4, 3, stride=(2, 1), padding=(0, 2), dilation=2)),
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


@pytest.mark.parametrize("name", REDUNDANT)
def test_what_the_others_make_up_for_costs_nothing(name):
    torch.manual_seed(1)
    make, axes = REDUNDANT[name]
    samples = noise(1, 3, *[12] * axes, count=20)
    found = grouped_on(make(), samples)
    pruned = without_odd_units(found)
    after = fitted(pruned, samples).exported
    others = noise(1, 3, *[12] * axes, count=4, seed=1)
    assert squared_error(pruned.exported, found.program, others) > 1e-2
    assert squared_error(after, found.program, others) < 1e-6


def test_a_linear_layer_over_three_axes():
    torch.manual_seed(2)
    samples = noise(2, 5, 6)
    found = grouped_on(relu(doubled(nn.Linear(6, 8)), doubled(nn.Linear(8, 8)), nn.Linear(8, 3)), samples)
    pruned = without_odd_units(found)
    assert squared_error(pruned.exported, found.program, samples) > 1e-2
    assert squared_error(fitted(pruned, samples).exported, found.program, samples) < 1e-6
