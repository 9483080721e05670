"""The proof of the surgery: it fails where a pruned program gives anything else, and says where."""

import math
from dataclasses import replace

import pytest
import torch
from measured import Composed, grouped_on, noise
from torch import nn

from edgecompile.errors import PruningBrokeProgramError
from edgecompile.graph_edit import ProgramEditor
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.pruning.zeroed_channels import prove, relative_error


def halved(network, samples):
    found = grouped_on(network, samples)
    keep = torch.ones(found.groups.count, dtype=torch.bool)
    keep[found.groups.groups[0].units[::2]] = False
    return remove_channels(found.program, found.groups, keep)


def test_a_program_that_gives_anything_else_is_refused():
    torch.manual_seed(0)
    samples = noise(1, 6, count=2)
    pruned = halved(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)), samples)
    inputs = [sample.inputs for sample in samples]
    assert prove(pruned, inputs).greatest_error < 1e-6
    editor = ProgramEditor(pruned.exported)
    weight = next(node for node in editor.graph.nodes if node.name == "p_2_weight")
    editor.set_constant(weight, editor.constant(weight) * 1.01)
    with pytest.raises(PruningBrokeProgramError) as caught:
        prove(replace(pruned, exported=editor.finish()), inputs)
    assert caught.value.lines["where"].startswith("linear_1")


def test_masked_outputs_are_no_difference():
    network = Composed(
        lambda own, x: own.last(own.first(x)).masked_fill(x[:, :3] > 0, -math.inf),
        first=nn.Linear(6, 8),
        last=nn.Linear(8, 3),
    )
    samples = noise(1, 6, count=4)
    pruned = halved(network, samples)
    assert prove(pruned, [sample.inputs for sample in samples]).greatest_error < 1e-6


@pytest.mark.parametrize(
    ("expected", "found", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([-math.inf, 2.0], [-math.inf, 2.0], 0.0),
        ([-math.inf, 2.0], [-math.inf, 1.0], 0.5),
        ([math.inf, 2.0], [3.0, 2.0], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([], [], 0.0),
        ([0.0], [0.0], 0.0),
    ],
)
def test_errors_are_shares_of_the_greatest_finite_value(expected, found, error):
    assert relative_error(torch.tensor(expected), torch.tensor(found)) == error


def test_nan_is_no_small_error():
    assert not relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan])) <= 1.0
