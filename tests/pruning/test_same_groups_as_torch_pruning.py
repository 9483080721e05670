"""Which channels go together, beside what torch-pruning finds on the gradients' graph.

Its coupling is worked out from Python modules and autograd, ours from the graph of `torch.export`. Compared
are partitions of the output channels of all convolutions and linear layers: a channel is a layer's name and
an index, and maps to the first channel of those that it must be removed with.
"""

import warnings

import pytest
import torch
from prune_program import grouped
from pruned_networks import NETWORKS
from torch import nn

from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED
from edgecompile.pruning.channel_groups import layer_name

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
EQUAL = [name for name in NETWORKS if name not in ("shufflenet", "encoder")]


class Joined:
    """Channels that go together, found pair by pair."""

    def __init__(self):
        self.parents = {}

    def first(self, channel):
        while self.parents.setdefault(channel, channel) != channel:
            channel = self.parents[channel]
        return channel

    def join(self, one, other):
        one, other = self.first(one), self.first(other)
        self.parents[max(one, other)] = min(one, other)

    def partition(self):
        return {channel: self.first(channel) for channel in list(self.parents)}


def partition_of_torch_pruning(network, inputs):
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(network, inputs, verbose=False)
    names, joined = {module: name for name, module in network.named_modules()}, Joined()
    for module, name in names.items():
        if not isinstance(module, LAYERS):
            continue
        pruner = graph.get_pruner_of_module(module)
        channels = list(range(pruner.get_out_channels(module)))
        for item in graph.get_pruning_group(module, pruner.prune_out_channels, channels):
            other = item.dep.target.module
            if isinstance(other, LAYERS) and graph.is_out_channel_pruning_fn(item.dep.handler):
                for index, root in zip(item.idxs, item.root_idxs, strict=True):
                    joined.join((name, root), (names[other], index))
    return joined.partition()


def partition_of(found):
    """The same of edgecompile: the rows of the layers' weights."""
    unit_of = {}
    for node in found.program.graph.nodes:
        if node.target not in (*CONVOLUTIONS, *TRANSPOSED, LINEAR):
            continue
        rows = 1 if node.target in TRANSPOSED else 0
        (labels,) = (item for item in found.groups.of_constants[node.args[1]] if item.axes == (rows,))
        unit_of |= {(layer_name(node), index): unit for index, unit in enumerate(labels.ids.tolist())}
    first = {}
    for channel in sorted(unit_of):
        first.setdefault(unit_of[channel], channel)
    return {channel: first[unit] for channel, unit in unit_of.items()}


@pytest.mark.parametrize("name", EQUAL)
def test_the_same_channel_by_channel(name):
    network, inputs = NETWORKS[name]()
    ours = partition_of(grouped(network, *inputs))
    theirs = partition_of_torch_pruning(network, inputs)
    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    assert len({layer for layer, _ in ours}) == len(layers)
    assert ours == theirs


def test_heads_of_attention_are_whole():
    """torch-pruning removes single channels of queries, keys and values, unless it is told of the heads.

    That would change the scale of attention. Both agree once the channels of a head are joined.
    """
    network, inputs = NETWORKS["encoder"]()
    ours = partition_of(grouped(network, *inputs))
    theirs = partition_of_torch_pruning(network, inputs)
    of_attention = {channel for channel in ours if channel[0].endswith((".query", ".key", ".value"))}
    assert {channel for channel in ours if ours[channel] != theirs[channel]} < of_attention
    joined, width = Joined(), 256 // 8
    for channel, first in theirs.items():
        joined.join(channel, first)
    for layer, index in of_attention:
        joined.join((layer, index), (layer, index // width * width))
    assert ours == joined.partition()


def test_shuffled_channels():
    """torch-pruning cannot build its graph of two views with a transposition between them.

    In its place stands the network in lists of channels. Two halves that are viewed as rows, (2, C / 2), lose
    the same columns.
    """
    network, inputs = NETWORKS["shufflenet"]()
    with pytest.raises(ZeroDivisionError):
        partition_of_torch_pruning(network, inputs)
    ours = partition_of(grouped(NETWORKS["shufflenet"]()[0], *inputs))
    names, joined = {module: name for name, module in network.named_modules()}, Joined()

    def written(layer, channels):
        own = [(names[layer], index) for index in range(layer.out_channels)]
        for index, channel in enumerate(own):
            joined.join(channel, channels[index] if layer.groups > 1 else channel)
        return own

    def branch(layers, channels):
        for layer in (inner for inner in layers.modules() if isinstance(inner, nn.Conv2d)):
            channels = written(layer, channels)
        return channels

    units = [layer for layer in network.layers if hasattr(layer, "branch")]
    channels = written(network.layers[0], [])
    for unit in units:
        half = len(channels) // 2
        whole = unit.shortcut is not None
        passed = branch(unit.shortcut, channels) if whole else channels[:half]
        convolved = branch(unit.branch, channels if whole else channels[half:])
        for one, other in zip(passed, convolved, strict=True):
            joined.join(one, other)
        channels = [channel for pair in zip(passed, convolved, strict=True) for channel in pair]
    branch(network.layers[-1], channels)
    for index in range(network.classifier.out_features):
        joined.first(("classifier", index))
    assert ours == joined.partition()
    assert len(set(ours.values())) < len(ours)


def test_the_oracle_tells_apart():
    """Two networks that differ in one addition have different partitions in both."""

    class Net(nn.Module):
        def __init__(self, adds):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
            self.head, self.adds = nn.Conv2d(8 if adds else 16, 4, 1), adds

        def forward(self, x):
            one, two = self.one(x), self.two(x)
            return self.head(one + two if self.adds else torch.cat([one, two], 1))

    inputs, found = (torch.randn(1, 3, 8, 8),), []
    for adds in (True, False):
        network = Net(adds)
        ours = partition_of(grouped(network, *inputs))
        assert ours == partition_of_torch_pruning(network, inputs)
        found.append(len(set(ours.values())))
    assert found == [8 + 4, 16 + 4]
