"""Operators in all their spellings, in every engine, and in one delegate call."""

import sys
from pathlib import Path

import pytest
from every_engine import check_every_engine
from quantized_net import Net
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "passes"))
from spellings import COMPUTING, MOVING

# What integers lose: a difference of two like values has their error.
LEAST_DB = {"softshrink": 5, "outer product": 5}

OUTSIDE = {"a norm by its own statistics"}  # XNNPACK has no mean over a batch


@pytest.mark.parametrize("name", [*MOVING, *COMPUTING])
def test_every_engine_computes_it(name):
    compute = (MOVING | COMPUTING)[name]
    net = Net(lambda net, x: compute(net.first(x)), first=nn.Conv2d(3, 4, 3, padding=1))
    checked = check_every_engine(net, 2, 3, 6, 6, samples=8, least_db=LEAST_DB.get(name, 10))
    if name not in OUTSIDE:
        assert checked.emitted["pte"].declined == ()
        assert checked.emitted["pte"].delegates == {"xnnpack": 1}
