"""Whatever a network is put together from, and whatever goes, what is left computes the same."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prune_program import grouped, pruned_and_proof
from random_network import BLOCKS, random_keep, random_network

from edgecompile.pruning.choose_units import Limits, choose_units
from edgecompile.pruning.costs import terms_of, total


def drawn_network(data):
    return random_network(lambda several: data.draw(st.sampled_from(list(several))))


def examples(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


ANY_UNITS = given(st.data(), st.booleans(), st.integers(0, 99), st.sampled_from([0.3, 0.6, 1.0]))


@examples(15)
@ANY_UNITS
def test_any_units_go_from_any_network(data, is_dynamic, seed, share):
    check_any_units(data, is_dynamic, seed, share)


@pytest.mark.slow
@examples(100)
@ANY_UNITS
def test_any_units_go_from_many_networks(data, is_dynamic, seed, share):
    check_any_units(data, is_dynamic, seed, share)


def check_any_units(data, is_dynamic, seed, share):
    found = grouped(drawn_network(data), torch.randn(2, 3, 8, 8), dynamic_batch=is_dynamic)
    keep = random_keep(found.groups, seed, share)
    others = [(torch.randn(5, 3, 8, 8),)] if is_dynamic else [(torch.randn(2, 3, 8, 8),)]
    smaller, _ = pruned_and_proof(found, keep, *others)
    removable = found.groups.removable
    assert bool(keep[~removable].all())
    everything = torch.ones_like(keep)
    size = sum(value.numel() for value in smaller.state_dict.values())
    terms = terms_of(found.program, found.groups, "parameters")
    assert total(terms, keep) == pytest.approx(size)
    assert bool(keep.all()) == (total(terms, everything) == size)


@examples(20)
@given(
    st.data(), st.integers(0, 99), st.floats(0.1, 1.0), st.sampled_from([1, 2, 4]), st.sampled_from([2, 4])
)
def test_a_chosen_share_goes(data, seed, share, multiple, minimum):
    found = grouped(drawn_network(data), torch.randn(1, 3, 8, 8))
    terms = terms_of(found.program, found.groups, "macs")
    importance = torch.rand(found.groups.count, generator=torch.Generator().manual_seed(seed))
    limits = Limits(multiple=multiple, minimum=minimum, fixed={})
    choice = choose_units(found.groups, terms, importance, share=share, limits=limits)
    pruned_and_proof(found, choice.keep)
    assert 0 <= choice.removed <= 1
    for node, several in found.groups.of_constants.items():
        for labels in several:
            left, whole = int(choice.keep[labels.ids].sum()), labels.ids.numel()
            assert left == whole or left >= min(minimum, whole), node.name
    again = choose_units(found.groups, terms, importance, share=share, limits=limits)
    assert torch.equal(again.keep, choice.keep)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_each_block_lets_channels_through(block):
    """What is held in some random network is held for a reason, not because a block is not understood."""
    reasons = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)

        def draw(several, generator=generator):
            return several[int(torch.randint(len(several), (), generator=generator))]

        torch.manual_seed(seed)
        before, after = torch.nn.Conv2d(3, 8, 1), block(8, 8, draw)
        network = torch.nn.Sequential(before, after, torch.nn.LazyConv2d(4, 1)).eval()
        with torch.no_grad():
            network(torch.zeros(1, 3, 8, 8))
        found = grouped(network, torch.randn(1, 3, 8, 8))
        reasons |= {reason for several in found.reasons().values() for reason in several}
        pruned_and_proof(found, random_keep(found.groups, seed, 0.7))
    allowed = {"they are an output of the model"}
    if block.__name__ == "attention":
        allowed.add("attention scales by the width of a head")  # where there is one head
    assert reasons <= allowed
