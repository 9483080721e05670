"""The architectures that people bring: each in every engine, in one delegate unless it is said why not."""

import pytest
import small_networks as networks
import torch
from every_engine import check_every_engine
from torch import nn

PICTURE = (1, 3, 32, 32)


def pictures(generator):
    return (torch.randn(PICTURE, generator=generator),)


def sound(generator):
    return (torch.randn(1, 20, 10, generator=generator),)


def text(generator):
    length = int(torch.randint(4, 13, (), generator=generator))
    return torch.randint(0, 50, (1, 12), generator=generator), (torch.arange(12)[None] < length).long()


def text_after_padding(generator):
    tokens, mask = text(generator)
    return tokens, mask.flip(1)


# The network, its inputs, and what is outside the delegate.
NETWORKS = {
    "mobilenet v3": (networks.mobilenet_v3, pictures, set()),
    "efficientnet": (networks.efficientnet, pictures, set()),
    "convnext": (networks.convnext, pictures, set()),
    "mobilevit": (networks.MobileVit, pictures, set()),
    "bert": (networks.Bert, text, {"embedding", "view_copy", "dim_order_ops::_to_dim_order_copy"}),
    "decoder": (
        networks.Decoder,
        text_after_padding,
        {"embedding", "gt", "view_copy", "bitwise_and", "dim_order_ops::_to_dim_order_copy"},
    ),
    "gru": (lambda: networks.Spotter(nn.GRU), sound, set()),
    "lstm": (lambda: networks.Spotter(nn.LSTM), sound, set()),
    "unet": (networks.UNet, pictures, set()),
    "detector": (networks.Detector, pictures, set()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_computes_it(name):
    make, inputs, outside = NETWORKS[name]
    torch.manual_seed(0)
    checked = check_every_engine(networks.settled(make()), inputs=inputs, samples=4)
    emitted = checked.emitted["pte"]
    assert {row.what.split(" ")[0].removeprefix("aten::") for row in emitted.declined} == outside
    assert emitted.delegates == {"xnnpack": 1}
