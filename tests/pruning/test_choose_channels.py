"""The choice of a build: shares, rules, steps, and what is left of a group."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measured import grouped_on, noise
from prune_program import grouped
from random_network import random_keep, random_network
from torch import nn

from edgecompile.errors import NothingToPruneError, PruningTargetNotMetError, UnknownLayerError
from edgecompile.graph_edit import shape_of
from edgecompile.progress import QuietProgress
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.choose_channels import choose_channels, fixed_shares
from edgecompile.pruning.costs import prunable, terms_of, total
from edgecompile.pruning.remove_channels import remaining_groups, remove_channels
from edgecompile.target import load_target

SETTINGS = replace(load_target("android-arm64").pruning, channel_multiple=2, minimum_width=2)
SAMPLES = noise(1, 3, 8, 8, count=8)


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    names = {"stem": (3, 16), "body_1": (16, 32), "body_2": (32, 32), "head": (32, 5)}
    parts = {name: nn.Conv2d(*widths, 3, padding=1) for name, widths in names.items()}
    network = nn.Sequential()
    for name, layer in parts.items():
        network.add_module(name, layer)
        network.add_module(f"{name}_relu", nn.ReLU())
    return grouped_on(network, SAMPLES)


def choose(found, share, progress=None, **settings):
    chosen = replace(SETTINGS, **settings)
    return choose_channels(found.program, share, SAMPLES, chosen, progress or QuietProgress())


def left(found, keep):
    return {group.name: int(keep[group.all_units].sum()) for group in found.groups.groups}


def share_gone(found, keep, measure="macs"):
    terms = prunable(terms_of(found.program, found.groups, measure), found.groups.removable)
    return 1 - total(terms, keep) / total(terms, torch.ones_like(keep))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("least_squares", [False, True])
def test_the_share_goes_in_any_number_of_steps(found, steps, least_squares):
    choice = choose(found, 0.5, steps=steps, least_squares=least_squares)
    assert share_gone(found, choice.keep) == pytest.approx(0.5, abs=0.03)
    assert choice.removed == pytest.approx(share_gone(found, choice.keep))
    assert all(count % 2 == 0 for name, count in left(found, choice.keep).items() if name != "head")
    assert not choice.held_back


def test_what_went_in_a_step_stays_away(found, monkeypatch):
    """Later steps measure the program without it, and never bring it back."""
    seen = []

    class Told(QuietProgress):
        def finish(self, detail=""):
            seen.append(detail)

    choose(found, 0.6, Told(), steps=3, least_squares=False)
    units = [int(detail.split()[0]) for detail in seen]
    assert units == sorted(units, reverse=True)
    assert units[0] == found.groups.count > units[-1]


def test_a_share_of_0_removes_nothing(found):
    choice = choose(found, 0.0)
    assert bool(choice.keep.all())
    assert choice.removed == 0
    assert not choice.held_back


def test_no_width_is_below_the_minimum(found):
    with pytest.raises(PruningTargetNotMetError) as caught:
        choose(found, 0.99, minimum_width=6)
    assert "stem: 6 of 16 units are left: 6 channels are the least" in caught.value.lines["found"]
    choice = choose(found, 0.6, minimum_width=12)
    assert min(count for name, count in left(found, choice.keep).items() if name != "head") >= 12


def test_excluded_layers_stay_whole(found):
    choice = choose(found, 0.25, exclude=("body_*",))
    assert left(found, choice.keep) == {"stem": 12, "body_1": 32, "body_2": 32, "head": 5}
    assert choice.removed == pytest.approx(0.25)  # of what may go


def test_steps_that_are_too_large_to_meet_a_share_remove_more(found):
    choice = choose(found, 0.3, exclude=("body_*",))  # 12.5% of the units at a time
    assert choice.removed == pytest.approx(0.375)
    assert not choice.held_back
    assert choose(found, 0.27, exclude=("body_*",)).removed == pytest.approx(0.25)  # near enough


def test_a_rule_says_what_goes_whatever_the_others_do(found):
    choice = choose(found, 0.0, ratio={"body_1": 0.5})
    assert left(found, choice.keep) == {"stem": 16, "body_1": 16, "body_2": 32, "head": 5}
    choice = choose(found, 0.5, ratio={"body_1": 0.25})
    assert left(found, choice.keep)["body_1"] == 24
    assert share_gone(found, choice.keep) == pytest.approx(0.5, abs=0.03)


def test_the_last_rule_counts(found):
    rules = {"*": 0.5, "body_*": 0.25, "body_2": 0.125}
    shares = fixed_shares(found.groups, replace(SETTINGS, ratio=rules))
    assert shares == {"stem": 0.5, "body_1": 0.25, "body_2": 0.125, "head": 0.5}
    reversed_rules = dict(reversed(rules.items()))
    shares = fixed_shares(found.groups, replace(SETTINGS, ratio=reversed_rules))
    assert set(shares.values()) == {0.5}
    both = replace(SETTINGS, ratio=rules, exclude=("body_1",))
    assert fixed_shares(found.groups, both)["body_1"] == 0


def test_a_rule_in_several_steps_ends_where_it_says(found):
    choice = choose(found, 0.5, ratio={"body_1": 0.5}, steps=3)
    assert left(found, choice.keep)["body_1"] == 16


@pytest.mark.parametrize("where", ["exclude", "ratio"])
def test_a_rule_for_no_layer(found, where):
    rule = {"exclude": ("body",)} if where == "exclude" else {"ratio": {"body": 0.5}}
    with pytest.raises(UnknownLayerError, match="there is no layer 'body'") as caught:
        choose(found, 0.5, **rule)
    assert caught.value.lines["where"] == f"pruning.{where}"


def test_all_excluded_leaves_nothing_to_prune(found):
    with pytest.raises(NothingToPruneError):
        choose(found, 0.5, exclude=("*",))


@pytest.mark.parametrize("measure", ["parameters", "size", "latency"])
def test_other_measures(found, measure):
    choice = choose(found, 0.4, measure=measure)
    assert share_gone(found, choice.keep, measure) == pytest.approx(0.4, abs=0.03)


def _labels_by_name(groups):
    return {
        (node.name, labels.axes): labels.ids
        for node, several in groups.of_constants.items()
        for labels in several
    }


def test_remaining_groups_are_those_of_the_pruned_program(found):
    pruned = remove_channels(found.program, found.groups, choose(found, 0.5).keep)
    remaining, anew = remaining_groups(pruned), find_groups(pruned.exported)
    assert remaining.count == anew.count
    one, other = _labels_by_name(remaining), _labels_by_name(anew)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    for left_over, group in zip(remaining.groups, anew.groups, strict=True):
        assert left_over.layers == group.layers
        assert torch.equal(left_over.units, group.units)
        assert torch.equal(left_over.held, group.held)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 99))
def test_remaining_groups_fit_the_pruned_program(data, seed):
    """Whatever it is made of: what goes together may be another thing where few channels are left."""
    network = random_network(lambda several: data.draw(st.sampled_from(list(several))))
    found = grouped(network, torch.randn(1, 3, 8, 8))
    pruned = remove_channels(found.program, found.groups, random_keep(found.groups, seed, 0.4))
    remaining = remaining_groups(pruned)
    for node, labels in remaining.of_values.items():
        assert labels.sizes() == {axis: shape_of(node)[axis] for axis in labels.axes}
    units = [labels.ids.flatten() for labels in remaining.of_values.values()]
    assert torch.equal(torch.cat(units).unique(), torch.arange(remaining.count))
