"""Data for the network `small` that something is wrong with, and networks that are odd themselves."""

import networks
import torch


class Logarithm(networks.Small):
    """Small, but for what it does with its picture first."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.log(picture))


def dead():
    """Both activations are zero whatever the picture is."""
    network = networks.Small()
    for norm in (network.stem_norm, network.depthwise_norm):
        torch.nn.init.constant_(norm.bias, -1000)
    return network.eval(), (torch.ones(1, 3, 16, 16),)


class Brightness(torch.nn.Module):
    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.mean([1, 2, 3])


def brightness():
    return Brightness(), (torch.ones(1, 3, 16, 16),)


def logarithm():
    return Logarithm().eval(), (torch.ones(1, 3, 16, 16),)


def plenty():
    yield from networks.pictures(20)


def one():
    yield next(iter(plenty()))


def same():
    yield from [next(iter(plenty()))] * 20


def twice():
    yield from list(plenty())[:10] * 2


def flat():
    for index in range(20):
        yield torch.full((1, 3, 16, 16), index / 20)


def zeros():
    for _ in range(20):
        yield torch.zeros(1, 3, 16, 16)


def others():
    yield from list(networks.pictures(30))[20:]


def overlapping():
    yield from list(networks.pictures(30))[13:]


def brighter():
    """One picture of ten has a third of its elements above 1."""
    for index, (picture, label) in enumerate(others()):
        yield (picture * 1.5 if index == 4 else picture), label


def negative_label():
    for index, (picture, label) in enumerate(others()):
        yield picture, -1 if index == 3 else label


def sixth_class():
    for index, (picture, label) in enumerate(others()):
        yield picture, 5 if index == 7 else label


def one_black():
    for index, (picture, label) in enumerate(plenty()):
        yield (torch.zeros_like(picture) if index == 9 else picture + 0.001), label
