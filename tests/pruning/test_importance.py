"""Each importance on networks where it is known which channels matter."""

from dataclasses import replace

import pytest
import torch
from measured import Composed, grouped_on, noise
from prune_program import grouped
from torch import nn
from torch.nn import functional

from edgecompile.dataset import Sample
from edgecompile.errors import NotFiniteValueError
from edgecompile.progress import QuietProgress
from edgecompile.pruning import layer_inputs
from edgecompile.pruning.choose_channels import choose_channels
from edgecompile.pruning.importance import IMPORTANCES
from edgecompile.target import load_target

SETTINGS = replace(load_target("android-arm64").pruning, channel_multiple=1, minimum_width=1)
WITH_DATA = ["activation", "taylor", "reconstruction"]


def importance(name, network, samples):
    """Return what each unit of the first group matters, in the order of its channels."""
    found = grouped_on(network, samples)
    scores = IMPORTANCES[name](found.program, found.groups, samples, QuietProgress()).double()
    assert scores.shape == (found.groups.count,)
    assert bool(scores.isfinite().all())
    assert bool((scores >= 0).all())
    return scores[found.groups.groups[0].units]


@pytest.fixture
def picture_samples():
    return noise(1, 3, 8, 8, count=16)


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))


@pytest.mark.parametrize("name", IMPORTANCES)
def test_a_channel_that_does_nothing_matters_least(name, picture_samples):
    network = convolutions()
    with torch.no_grad():
        network[0].weight[5], network[0].bias[5] = 0, 0
        network[1].weight[5] = 0
        network[3].weight[:, 5] = 0
    scores = importance(name, network, picture_samples)
    assert scores.argmin() == 5
    assert scores[5] < 1e-6 < scores[:5].min()


@pytest.mark.parametrize("name", ["taylor", "reconstruction"])
def test_what_nothing_reads_matters_least_however_large_it_is(name, picture_samples):
    network = convolutions()
    with torch.no_grad():
        network[3].weight[:, 2] = 0
        network[1].weight[2] = 10
    assert importance(name, network, picture_samples).argmin() == 2
    assert importance("activation", network, picture_samples).argmax() == 2


def test_one_of_two_equal_channels_is_nearly_free_where_the_other_makes_up_for_it(picture_samples):
    network = convolutions()
    with torch.no_grad():
        network[0].weight[6], network[0].bias[6] = network[0].weight[1], network[0].bias[1]
    samples = noise(1, 3, 8, 8, count=64)
    one, other = importance("reconstruction", network, samples)[[1, 6]].sort().values
    assert one < 0.3 * other
    one, other = importance("l2", network, picture_samples)[[1, 6]].sort().values
    assert one > 0.5 * other


def test_weights_of_all_layers_of_a_unit_are_summed():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0], [1.0, 1.0]]))
        network[2].weight.copy_(torch.tensor([[-1.0, 2.0, 0.0]]))
    samples = noise(1, 2)
    # Shares of what is left of the group when they go, the least first: 4, 5 and 2; 6, 13 and 2.
    assert importance("l1", network, samples).tolist() == pytest.approx([4 / 9, 1, 2 / 11])
    assert importance("l2", network, samples).tolist() == pytest.approx([6 / 19, 1, 2 / 21])


def test_the_scale_of_batch_norms(picture_samples):
    network = convolutions()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([3.0, -4.0, 0.1, 1.0, 2.0, -0.5, 5.0, 6.0]))
    order = importance("batch-norm", network, picture_samples).argsort()
    assert order.tolist() == network[1].weight.abs().argsort().tolist()


def test_without_batch_norms_it_is_the_weights(picture_samples):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    scores, weights = (importance(name, network, picture_samples) for name in ("batch-norm", "l2"))
    assert torch.equal(scores, weights)


def test_the_energy_of_what_is_read():
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
    samples = [Sample(inputs=(torch.ones(1, 3),), label=None)] * 2
    # 1, 9 and 4.
    assert importance("activation", network, samples).tolist() == pytest.approx([1 / 14, 1, 4 / 13])


def test_taylor_is_on_average_what_zeroing_changes_in_a_linear_network():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5))
    samples = noise(1, 6, count=4) * 500  # each with other random projections
    expected = torch.zeros(8)
    for sample in samples[:4]:
        with torch.no_grad():
            hidden, output = network[0](*sample.inputs), network(*sample.inputs)
            changes = hidden.square()[0] * network[1].weight.square().sum(0)
            expected += changes / output.square().sum() / 4
    found = importance("taylor", network, samples)
    assert torch.allclose(found.float(), expected, rtol=0.15)


def test_a_layer_that_is_called_twice_counts_once():
    """Zeroing a unit changes what both calls read: the gradient has both already."""
    torch.manual_seed(2)
    network = Composed(
        lambda own, x: own.last(own.first(x)) + own.last(functional.relu(own.first(x))),
        first=nn.Linear(6, 8),
        last=nn.Linear(8, 4, bias=False),
    )
    samples = noise(1, 6, count=4) * 500
    expected = torch.zeros(8)
    with torch.no_grad():
        for (x,) in (sample.inputs for sample in samples[:4]):
            read = network.first(x) + functional.relu(network.first(x))
            changes = read.square()[0] * network.last.weight.square().sum(0)
            expected += changes / network(x).square().sum() / 4
    assert torch.allclose(importance("taylor", network, samples).float(), expected, rtol=0.15)


# Networks that read, give or compute what is unusual, and what draws their inputs.
UNUSUAL = {
    "integers in": (
        lambda: nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        lambda: (torch.randint(0, 20, (1, 5)),),
    ),
    "integers out": (
        lambda: Composed(lambda own, x: own.net(x).argmax(1), net=convolutions()),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "booleans out": (
        lambda: Composed(lambda own, x: own.net(x).max(1)[0] > 0, net=convolutions()),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "several outputs": (
        lambda: Composed(
            lambda own, x: (own.one(own.first(x)), own.other(own.first(x)).argmax(1)),
            first=nn.Conv2d(3, 8, 3),
            one=nn.Conv2d(8, 2, 1),
            other=nn.Conv2d(8, 4, 1),
        ),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "halves": (
        lambda: Composed(
            lambda own, x: own.last(torch.cat([own.inner(own.first(x).chunk(2, 1)[0]), own.first(x)], 1)),
            first=nn.Conv2d(3, 8, 3),
            inner=nn.Conv2d(4, 4, 1),
            last=nn.Conv2d(12, 4, 1),
        ),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "read unevenly": (
        lambda: Composed(
            lambda own, x: own.last(torch.cat([own.first(x), own.first(x)[:, 2:5]], 1)),
            first=nn.Conv2d(3, 8, 3),
            last=nn.Conv2d(11, 4, 1),
        ),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "transposed in groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "transposed depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        ),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3, groups=2)),
        lambda: (torch.randn(1, 3, 8, 8),),
    ),
    "three axes": (
        lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 2)),
        lambda: (torch.randn(1, 3, 5, 5, 5),),
    ),
    "float64": (lambda: convolutions().double(), lambda: (torch.randn(1, 3, 8, 8).double(),)),
    "bfloat16": (lambda: convolutions().bfloat16(), lambda: (torch.randn(1, 3, 8, 8).bfloat16(),)),
    "large means": (
        lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
        lambda: (torch.randn(1, 6) + 1e5,),
    ),
}


@pytest.mark.parametrize("name", IMPORTANCES)
@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_networks_have_importances(case, name):
    torch.manual_seed(3)
    make, draw = UNUSUAL[case]
    samples = [Sample(inputs=draw(), label=None) for _ in range(6)]
    found = grouped(make(), *samples[0].inputs)
    scores = IMPORTANCES[name](found.program, found.groups, samples, QuietProgress())
    assert bool(scores.isfinite().all())
    assert bool((scores[found.groups.removable] > 0).all()) or case == "large means"
    again = IMPORTANCES[name](found.program, found.groups, samples, QuietProgress())
    assert torch.equal(scores, again)


def test_rows_that_are_too_long_count_as_if_nothing_made_up_for_them(monkeypatch, picture_samples):
    network = convolutions()
    with torch.no_grad():
        network[0].weight[6], network[0].bias[6] = network[0].weight[1], network[0].bias[1]
    monkeypatch.setattr(layer_inputs, "LONGEST_ROW", 8 * 9 - 1)
    found, taylor = (importance(name, network, picture_samples) for name in ("reconstruction", "taylor"))
    assert torch.allclose(found, taylor)


@pytest.mark.parametrize("name", IMPORTANCES)
def test_a_value_that_is_not_finite_is_said(name):
    network = Composed(
        lambda own, x: own.last(own.first(x).log()), first=nn.Linear(6, 8), last=nn.Linear(8, 4)
    )
    if name not in WITH_DATA:
        network.first.weight.data[2, 1] = float("nan")
    samples = noise(1, 6)
    program = grouped_on(network, samples).program
    settings = replace(SETTINGS, importance=name)
    with pytest.raises(NotFiniteValueError, match="NaN or infini"):
        choose_channels(program, 0.5, samples, settings, QuietProgress())
