"""Half of the multiply-accumulates go from ten kinds of networks, and what is left computes the same."""

import dataclasses

import pytest
import torch
from prune_program import grouped, pruned_and_proof
from pruned_networks import NETWORKS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgecompile.progress import QuietProgress
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.choose_units import Limits, choose_units
from edgecompile.pruning.costs import prunable, terms_of, total
from edgecompile.pruning.importance import l2

LIMITS = Limits(multiple=8, minimum=8, fixed={})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Halved:
    found: object
    choice: object
    terms: object
    smaller: object
    proof: object


# The largest, which have the same kinds of layers as resnet18 and mobilenet_v3_small.
LARGE = ("resnet50", "mobilenet_v2", "efficientnet_lite0")
PARAMS = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in NETWORKS]


@pytest.fixture(scope="module", params=PARAMS)
def halved(request):
    network, inputs = NETWORKS[request.param]()
    found = grouped(network, *inputs)
    terms = terms_of(found.program, found.groups, "macs")
    importance = l2(found.program, found.groups, (), QuietProgress())
    choice = choose_units(
        found.groups, prunable(terms, found.groups.removable), importance, share=0.5, limits=LIMITS
    )
    smaller, proof = pruned_and_proof(found, choice.keep, other_inputs(inputs))
    return Halved(found=found, choice=choice, terms=terms, smaller=smaller, proof=proof)


def other_inputs(inputs):
    """Return inputs of the same kind."""
    return tuple(torch.randn_like(value) if value.is_floating_point() else value.flip(-1) for value in inputs)


def counted_macs(program, inputs):
    """Return the multiply-accumulates that torch itself counts while a program runs."""
    two_products = sdpa_kernel(SDPBackend.MATH)  # it counts no other attention on the CPU
    with torch.no_grad(), two_products, FlopCounterMode(display=False) as counter:
        program.module(check_guards=False)(*inputs)
    return counter.get_total_flops() / 2


def test_half_of_the_macs_go(halved):
    inputs = halved.found.inputs
    everything = torch.ones(halved.found.groups.count, dtype=torch.bool)
    whole = counted_macs(halved.found.program, inputs)
    assert total(halved.terms, everything) == whole
    left = counted_macs(halved.smaller, inputs)
    assert total(halved.terms, halved.choice.keep) == pytest.approx(left)
    can_go = total(prunable(halved.terms, halved.found.groups.removable), everything)
    assert halved.choice.removed == pytest.approx((whole - left) / can_go)
    assert halved.choice.removed == pytest.approx(0.5, abs=0.03)
    assert not halved.choice.held_back


def test_no_layer_is_emptied_for_the_others(halved):
    """Eight heads weigh as much as a thousand channels, and the last of them more than the first."""
    groups, keep = halved.found.groups.groups, halved.choice.keep
    shares = {group.name: float(keep[group.units].float().mean()) for group in groups if len(group.units)}
    assert min(shares.values()) > 1 / 8, shares


def test_what_is_left_computes_the_same(halved):
    assert halved.proof.samples == 2
    assert halved.proof.greatest_error < 1e-5


def test_it_is_a_program_to_prune_again(halved):
    again = {group.name: group for group in find_groups(halved.smaller).groups}
    for before in halved.found.groups.groups:
        left, after = int(halved.choice.keep[before.units].sum()), again[before.name]
        if left + before.kept == 1:  # a single head is no unit among others: nothing of it can go
            assert not len(after.units)
            continue
        assert (after.layers, len(after.units), after.kept) == (before.layers, left, before.kept)


def test_widths_are_multiples_of_eight(halved):
    keep = halved.choice.keep
    for group in halved.found.groups.groups:
        per_unit = {width // (len(group.units) + group.kept) for width in group.widths}
        left = int(keep[group.units].sum()) + group.kept
        is_touched = left < len(group.units) + group.kept
        if is_touched and len(per_unit) == 1:
            assert left * per_unit.pop() % 8 == 0, group.name


def test_what_stays_is_the_head(halved):
    """Nothing else of these networks is held, or not understood."""
    stays = [group for group in halved.found.groups.groups if group.reasons]
    (head,) = stays
    assert head.reasons == ("they are an output of the model",)
    assert not len(head.units)
    assert head is halved.found.groups.groups[-1]


def test_two_of_three_units_of_each_group_go(halved):
    """Whatever the choice, wherever the layer."""
    groups = halved.found.groups
    keep = torch.ones(groups.count, dtype=torch.bool)
    for group in groups.groups:
        keep[group.units] = torch.arange(len(group.units)) % 3 == 0
    _, proof = pruned_and_proof(halved.found, keep)
    assert proof.greatest_error < 1e-5
