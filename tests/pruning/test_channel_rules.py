"""What each operator does to channels: what goes, what stays, and the reason that a user reads."""

import pytest
import torch
from prune_program import grouped, pruned
from random_network import Block, random_keep
from torch import nn
from torch.nn import functional
from transformer_networks import Encoder

OUTPUT = ("they are an output of the model",)


def between(function, outputs=8):
    """A function between a convolution with eight channels and one that reads what it gives."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(outputs, 4, 1)
    return Block(lambda own, x: own.last(function(own.first(x))), first=first, last=last)


def image():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


FOLLOWED = {
    "movedim": (lambda x: x.movedim(1, -1).relu().movedim(-1, 1), 8, 8),
    "swapaxes": (lambda x: x.swapaxes(1, 3).swapaxes(-1, 1), 8, 8),
    "mT": (lambda x: x.mT, 8, 8),
    "narrow": (lambda x: x.narrow(1, 2, 4), 4, 8),
    "narrow from the end": (lambda x: x.narrow(1, -4, 4), 4, 8),
    "slice with steps": (lambda x: x[:, :, ::2, 1::3], 8, 8),
    "tensor_split": (lambda x: torch.cat(x.tensor_split([2, 5], 1)[::-1], 1), 8, 8),
    "chunk": (lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), 8, 8),
    "itself twice": (lambda x: torch.cat([x, x], 1), 16, 8),
    "glu": (lambda x: functional.glu(x, 1), 4, 4),
    "glu of rows": (lambda x: functional.glu(x, -1), 8, 8),
    "channel shuffle": (lambda x: functional.channel_shuffle(x, 2), 8, 4),
    "half times half": (lambda x: x[:, :4] * x[:, 4:], 4, 4),
    "normalize": (lambda x: functional.normalize(x, dim=1), 8, 8),
    "flip": (lambda x: x.flip(-1), 8, 8),
    "roll": (lambda x: x.roll((1, 2), (2, 3)), 8, 8),
    "mean of all": (lambda x: x - x.mean(), 8, 8),
    "mean of no axes": (lambda x: x - x.mean(dim=[], keepdim=True), 8, 8),
    "sum of all": (lambda x: x / x.abs().sum(), 8, 8),
    "standard deviation": (lambda x: x * x.std((2, 3), keepdim=True), 8, 8),
    "maximum": (lambda x: x * x.max(2, keepdim=True)[0] + x.max(2)[0][:, :, None], 8, 8),
    "argmax": (lambda x: x + x.argmax(2, keepdim=True), 8, 8),
    "adaptive max pooling": (lambda x: functional.adaptive_max_pool2d(x, 2), 8, 8),
    "largest norm": (lambda x: x * torch.linalg.vector_norm(x, float("inf"), 1, keepdim=True), 8, 8),
    "batch size": (lambda x: x * x.shape[0], 8, 8),
    "truths": (lambda x: torch.where(x > 0, x, -1.0), 8, 8),
    "whole numbers": (lambda x: x.floor().int().float(), 8, 8),
    "no number": (lambda x: (x - x) / (x - x).relu().clamp_min(0.0).add(1) + 1 / x, 8, 8),
    "channels become rows": (lambda x: x.flatten(1)[:, :, None, None], 512, 8),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2).softmax(1).transpose(1, 2).unflatten(2, (8, 8)), 8, 8),
}


@pytest.mark.parametrize("is_dynamic", [False, True], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_channels_are_followed(name, is_dynamic):
    function, outputs, units = FOLLOWED[name]
    found = grouped(between(function, outputs), image(), dynamic_batch=is_dynamic)
    assert found.by_name() == {"first": (units, 0), "last": (0, 4)}
    assert found.reasons() == {"last": OUTPUT}
    pruned(found, random_keep(found.groups, seed=0, share=0.5))


KEPT = {
    "flip": (lambda x: x.flip(1), 8, "flip works along them"),
    "roll of all": (lambda x: x.roll(1), 8, "all elements are moved as one row"),
    "cumsum": (lambda x: x.cumsum(1), 8, "cumsum works along them"),
    "softmax": (lambda x: x.softmax(1), 8, "a softmax is taken over them"),
    "maximum": (lambda x: x * x.max(1, keepdim=True)[0], 8, "max compares them"),
    "largest": (lambda x: x * x.amax(1, keepdim=True), 8, "amax reduces a part of them, or not as a sum"),
    "least norm": (
        lambda x: x * torch.linalg.vector_norm(x, float("-inf"), 1, keepdim=True),
        8,
        "linalg_vector_norm reduces a part of them, or not as a sum",
    ),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), 16, "they are repeated"),
    "every second": (lambda x: x[:, ::2], 4, "every so many of them are taken"),
    "one of them": (lambda x: x[:, 0][:, None], 1, "single channels are taken out"),
    "one of them as a slice": (
        lambda x: x[:, :1] * x,
        8,
        "a single channel meets all channels of another value",
    ),
    "padding": (lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)), 10, "channels are padded with others"),
    "pairs": (lambda x: (x.flatten(2) @ x.flatten(2).mT)[..., None], 8, "a product makes pairs of them"),
    "not known": (
        lambda x: torch.fft.fft(x).real,
        8,
        "fft_fft reads them, through which channels are not followed",
    ),
    "einsum": (
        lambda x: torch.einsum("nchw,nchw->nchw", x, x),
        8,
        "einsum reads them, through which channels are not followed",
    ),
    "computed weight": (
        lambda x: functional.conv2d(x, torch.ones(8, 8, 1, 1) * 2),
        8,
        "the weight of a convolution is computed",
    ),
    "computed constant": (
        lambda x: x * (torch.arange(8.0) * 2)[:, None, None],
        8,
        "its channels meet those of unsqueeze_1, which are kept whole",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_channels_are_kept_whole(name):
    """The reason says which operator it is, and the whole program stays as it is, and valid."""
    function, outputs, reason = KEPT[name]
    found = grouped(between(function, outputs), image())
    kept, *others = found.groups.groups
    assert (kept.name, len(kept.units), kept.kept, kept.reasons) == ("first", 0, 8, (reason,))
    assert kept.where.startswith("test_channel_rules.py:") or kept.where.startswith("random_network.py:")
    assert all(group.reasons == OUTPUT for group in others if group.name == "last")
    pruned(found, random_keep(found.groups, seed=0, share=1.0))


def test_what_is_not_understood_stops_nothing_else():
    """A group before it and one after it go as ever."""
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
    third, last = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 4, 1)
    network = Block(
        lambda own, x: own.last(own.third(torch.fft.fft(own.second(own.first(x))).real)),
        first=first,
        second=second,
        third=third,
        last=last,
    )
    found = grouped(network, image())
    assert found.by_name() == {"first": (8, 0), "second": (0, 6), "third": (8, 0), "last": (0, 4)}
    pruned(found, random_keep(found.groups, seed=0, share=1.0))


def test_outputs_stay():
    """Each of several, in the middle of a network too; what is only summed into one may go."""

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
            self.last = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            features = self.first(x)
            deeper = self.second(features.relu())
            return {"features": features, "scores": (self.last(deeper), deeper.mean(1))}

    found = grouped(Several(), image())
    assert found.by_name() == {"first": (0, 8), "second": (6, 0), "last": (0, 4)}
    assert found.reasons() == {"first": OUTPUT, "last": OUTPUT}
    pruned(found, random_keep(found.groups, seed=0, share=1.0))


def test_a_view_that_does_not_tell():
    """The batch is joined with the channels: with a fixed one their places are known."""
    network = between(lambda x: x.flatten(0, 1).relu().unflatten(0, (-1, 8)))
    assert grouped(network, image()).by_name()["first"] == (8, 0)
    found = grouped(network, image(), dynamic_batch=True)
    assert found.reasons()["first"] == ("a view joins them with an axis of dynamic size",)
    pruned(found, random_keep(found.groups, seed=0, share=1.0))


def test_heads_are_units():
    found = grouped(Encoder(width=32, heads=4), torch.randint(0, 200, (2, 24)))
    attention = [group for group in found.groups.groups if group.name.endswith("query")]
    assert [(len(group.units), group.widths) for group in attention] == [(4, (32, 32, 32))] * 3
    keep = torch.ones(found.groups.count, dtype=torch.bool)
    keep[attention[0].units[1:3]] = False
    smaller = pruned(found, keep)
    shapes = [tuple(value.shape) for name, value in smaller.state_dict.items() if "layers_0" in name]
    assert shapes.count((16, 32)) == 3
    assert shapes.count((32, 16)) == 1


def test_heads_of_one_matrix_are_units():
    """Queries, keys and values of one layer; attention written out, with a mask and a bias of each head."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.split, self.out = nn.Linear(3, 16), nn.Linear(16, 48), nn.Linear(16, 16)
            self.head, self.bias = nn.Linear(16, 4), nn.Parameter(torch.randn(1, 4, 6, 6))
            self.register_buffer("mask", torch.ones(6, 6).tril().bool())

        def forward(self, x):
            x = self.embed(x)
            query, key, value = self.split(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
            scores = query @ key.transpose(-2, -1) / 2 + self.bias
            attended = scores.masked_fill(~self.mask, -1e9).softmax(-1) @ value
            return self.head(x + self.out(attended.transpose(1, 2).reshape(x.shape)))

    for is_dynamic in (False, True):
        found = grouped(Masked(), torch.randn(2, 6, 3), dynamic_batch=is_dynamic)
        assert found.by_name() == {"embed": (16, 0), "split": (4, 0), "head": (0, 4)}
        smaller = pruned(found, random_keep(found.groups, seed=0, share=1.0))
        assert smaller.state_dict["p_bias"].shape == (1, 2, 6, 6)


@pytest.mark.parametrize("how", ["expand", "repeat"])
@pytest.mark.parametrize("is_dynamic", [False, True], ids=["fixed", "dynamic"])
def test_a_token_for_each_sample(how, is_dynamic):
    """A parameter that is repeated for the batch loses the channels of what it is joined with."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 4)
            self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))

        def forward(self, x):
            x, count = self.patches(x).flatten(2).transpose(1, 2), x.shape[0]
            token = self.token.expand(count, -1, -1) if how == "expand" else self.token.repeat(count, 1, 1)
            return self.head((torch.cat([token, x], 1) + self.places).relu().mean(1))

    found = grouped(Patches(), image(), dynamic_batch=is_dynamic)
    assert found.by_name() == {"patches": (16, 0), "head": (0, 4)}
    pruned(found, random_keep(found.groups, seed=0, share=0.5))


def test_one_channel_left_is_no_axis_to_squeeze():
    network = Block(
        lambda own, x: own.last(own.first(x).squeeze().squeeze(1)),
        first=nn.Conv2d(3, 8, 8),
        last=nn.Linear(8, 4),
    )
    found = grouped(network, image())
    keep = ~found.groups.removable
    keep[found.groups.groups[0].units[3]] = True
    smaller = pruned(found, keep)
    assert sorted(tuple(value.shape) for value in smaller.state_dict.values() if value.dim() > 1) == [
        (1, 3, 8, 8),
        (4, 1),
    ]


@pytest.mark.parametrize("is_transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize(("channels", "groups", "units"), [(8, 2, 4), (8, 4, 4), (8, 8, 8)])
def test_convolutions_in_groups(is_transposed, channels, groups, units):
    """As many channels from each group, or whole groups; of what an input gives, only the former."""
    kind = nn.ConvTranspose2d if is_transposed else nn.Conv2d
    found = grouped(between(kind(channels, 2 * channels, 3, groups=groups), 2 * channels), image())
    assert found.by_name()["first"] == (units, 0)
    pruned(found, random_keep(found.groups, seed=0, share=1.0))
    last = nn.Conv2d(2 * channels, 4, 1)
    found = grouped(
        nn.Sequential(kind(channels, 2 * channels, 3, groups=groups), last), torch.randn(1, 8, 9, 9)
    )
    pruned(found, random_keep(found.groups, seed=0, share=1.0))
    assert found.by_name().get("0") == (None if groups >= channels // groups else (channels, 0))


def test_a_layer_that_is_used_again():
    """One weight, read and written three times: its rows and columns are the same channels."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), *[nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()] * 3, nn.Conv2d(8, 4, 1)
    )
    found = grouped(network, image())
    assert list(found.by_name().values()) == [(8, 0), (0, 4)]
    pruned(found, random_keep(found.groups, seed=0, share=0.5))


def test_an_embedding_that_is_also_the_head():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.layer = nn.Embedding(20, 16), nn.Linear(16, 16)

        def forward(self, tokens):
            x = self.embed(tokens)
            return functional.linear(x + self.layer(x), self.embed.weight)

    found = grouped(Tied(), torch.randint(0, 20, (2, 6)))
    assert sorted(found.by_name().values()) == [(0, 20), (16, 0)]
    smaller = pruned(found, random_keep(found.groups, seed=0, share=0.5))
    assert (20, 8) in [tuple(value.shape) for value in smaller.state_dict.values()]


def test_a_single_channel_whose_axis_is_dropped_stays():
    """As in a map of attention: one channel, squeezed away, and then viewed in another shape."""

    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.single = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
            self.last = nn.Linear(16, 5)

        def forward(self, x):
            return self.last(self.single(self.first(x)).squeeze(1).flatten(1))

    found = grouped(Map(), torch.randn(2, 3, 4, 4))
    assert found.by_name() == {"first": (8, 0), "single": (0, 1), "last": (0, 5)}
    assert found.reasons()["single"] == ("the axis of a single channel is dropped",)
    keep = torch.ones(found.groups.count, dtype=torch.bool)
    keep[found.groups.groups[0].units[:3]] = False
    pruned(found, keep)
