"""What programs cost, counted by hand, and with units removed."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured import Composed
from prune_program import grouped
from random_network import random_keep, random_network
from torch import nn
from torch.nn import functional

from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.costs import prunable, terms_of, total
from edgecompile.pruning.remove_channels import remaining_groups, remove_channels

MEASURES = ["macs", "parameters", "size", "latency"]


def cost(found, measure, keep=None):
    everything = torch.ones(found.groups.count, dtype=torch.bool)
    return total(terms_of(found.program, found.groups, measure), everything if keep is None else keep)


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "weights", "biases"),
    [
        (nn.Conv2d(3, 8, 3), (1, 3, 10, 10), 64 * 3 * 8 * 9, 3 * 8 * 9, 8),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), (1, 4, 10, 10), 25 * 2 * 8 * 9, 2 * 8 * 9, 8),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False), (1, 4, 10, 10), 64 * 4 * 9, 4 * 9, 0),
        (nn.Conv1d(3, 8, 5), (1, 3, 10), 6 * 3 * 8 * 5, 3 * 8 * 5, 8),
        (nn.ConvTranspose2d(3, 8, 2, stride=2), (1, 3, 5, 5), 25 * 3 * 8 * 4, 3 * 8 * 4, 8),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), (1, 4, 5, 5), 25 * 4 * 4 * 9, 4 * 4 * 9, 8),
        (nn.Linear(6, 8), (1, 6), 6 * 8, 6 * 8, 8),
        (nn.Linear(6, 8), (1, 5, 6), 5 * 6 * 8, 6 * 8, 8),
        (nn.Linear(6, 8), (2, 5, 6), 10 * 6 * 8, 6 * 8, 8),
        (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5), 27 * 2 * 4 * 27, 2 * 4 * 27, 4),
    ],
)
def test_layers(layer, shape, macs, weights, biases):
    found = grouped(layer, torch.zeros(shape))
    assert cost(found, "macs") == macs
    assert cost(found, "parameters") == weights + biases
    assert cost(found, "size") == weights + 4 * biases
    read, given = torch.zeros(shape), layer(torch.zeros(shape))
    moved = read.numel() + given.numel() + weights + biases
    assert cost(found, "latency") == macs + 16 * moved


def test_a_dynamic_batch_counts_as_one_sample():
    layer, shape = nn.Conv2d(3, 8, 3), (1, 3, 10, 10)
    fixed, dynamic = (grouped(layer, torch.zeros(shape), dynamic_batch=each) for each in (False, True))
    for measure in MEASURES:
        assert cost(fixed, measure) == cost(dynamic, measure)


def test_products_of_attention():
    heads, tokens, width = 3, 7, 4

    def split(x):
        return x.reshape(1, tokens, heads, width).transpose(1, 2)

    fused = Composed(
        lambda own, x: functional.scaled_dot_product_attention(*(split(part(x)) for part in own.children())),
        query=nn.Linear(6, 12, bias=False),
        key=nn.Linear(6, 12, bias=False),
        value=nn.Linear(6, 12, bias=False),
    )
    plain = Composed(
        lambda own, x: (
            (split(own.query(x)) @ split(own.key(x)).transpose(2, 3)).softmax(-1) @ split(own.value(x))
        ),
        query=nn.Linear(6, 12, bias=False),
        key=nn.Linear(6, 12, bias=False),
        value=nn.Linear(6, 12, bias=False),
    )
    expected = 3 * tokens * 6 * 12 + 2 * heads * tokens * tokens * width
    for network in (fused, plain):
        assert cost(grouped(network, torch.zeros(1, tokens, 6)), "macs") == expected


def test_what_goes_is_counted_on_both_sides():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    found = grouped(network, torch.zeros(1, 3, 6, 6))
    keep = torch.ones(found.groups.count, dtype=torch.bool)
    keep[found.groups.groups[0].units[:2]] = False
    assert cost(found, "macs", keep) == 36 * 3 * 6 + 16 * 6 * 9 + 16 * 6 * 4
    assert cost(found, "parameters", keep) == (3 * 6 + 6) + (6 * 9 + 6) + (6 * 4 + 4)


def test_only_terms_that_can_change_are_prunable():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(3, 3))
    found = grouped(network, torch.zeros(1, 4))
    terms = terms_of(found.program, found.groups, "macs")
    removable = torch.zeros(found.groups.count, dtype=torch.bool)
    removable[found.groups.groups[0].units] = True
    assert [term.base for term in prunable(terms, removable)] == [32, 24]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 99), st.sampled_from(MEASURES))
def test_the_cost_of_what_stays_is_that_of_the_pruned_program(data, seed, measure):
    network = random_network(lambda several: data.draw(st.sampled_from(list(several))))
    found = grouped(network, torch.randn(1, 3, 8, 8))
    keep = random_keep(found.groups, seed, 0.5)
    pruned = remove_channels(found.program, found.groups, keep)
    expected = cost(found, measure, keep)
    for groups in (find_groups(pruned.exported), remaining_groups(pruned)):
        everything = torch.ones(groups.count, dtype=torch.bool)
        assert total(terms_of(pruned.exported, groups, measure), everything) == pytest.approx(
            expected, rel=1e-9
        )
