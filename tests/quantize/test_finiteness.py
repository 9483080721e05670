"""NaN and infinity in a calibration: refused with the operator that made them, and the sample."""

import dataclasses
import re

import pytest
import torch
from quantized_net import SETTINGS, Net, quantized
from torch import nn
from torch.nn import functional

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.errors import NotFiniteValueError
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import quantize

OBSERVERS = ("histogram", "min-max")


def linear(weight: float = 1.0, bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(4, 4)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def refused(module, values, observer="histogram", limit=128):
    """Calibrate on samples of four equal elements, and return the error."""
    samples = tuple(Sample(inputs=(torch.full((1, 4), value),), label=None) for value in values)
    source = SourceModel(name="net", module=module.eval(), exported=None, example_inputs=samples[0].inputs)
    settings = dataclasses.replace(SETTINGS, activation_observer=observer, calibration_samples=limit)
    with pytest.raises(NotFiniteValueError) as caught:
        quantize(
            capture(source, dynamic_batch=False),
            Dataset(samples=samples, spec="numbers"),
            settings,
            QuietProgress(),
        )
    return caught.value


LATE = [1.0] * 6 + [-1.0] * 2


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize(
    ("function", "first", "kind"),
    [
        (lambda net, x: net.layer(torch.log(x)), "log (log)", "NaN"),
        (lambda net, x: net.layer(torch.log(x).exp() + 1), "log (log)", "NaN"),
        (lambda net, x: net.layer(x / (x + 1)), "div (div)", "infinity"),
        (lambda net, x: torch.sqrt(net.layer(x)), "sqrt (sqrt)", "NaN"),
    ],
    ids=["observed", "observed later", "infinite", "an output alone"],
)
def test_the_first_operator_and_the_sample_are_named(function, first, kind, observer):
    error = refused(Net(function, layer=linear()), LATE, observer)
    assert error.message == f"{first} gives {kind} in the calibration"
    assert re.fullmatch(r"\w+\.py:\d+; numbers, sample 6", error.lines["where"])
    assert error.lines["found"].startswith("4 of 4 elements")


def test_where_it_arrives_is_named_too():
    error = refused(Net(lambda net, x: net.layer(torch.log(x).exp() + 1), layer=linear()), LATE)
    assert "\nit reaches add (add)" in error.lines["found"]


def test_the_index_is_that_in_all_of_the_data():
    """Four of eight samples are used: 0, 2, 4 and 6."""
    error = refused(Net(lambda net, x: net.layer(torch.log(x)), layer=linear()), LATE, limit=4)
    assert error.lines["where"].endswith("sample 6")


def test_damaged_weights_are_named():
    layer = linear()
    layer.weight.data[1, 2] = torch.nan
    error = refused(Net(lambda net, x: net.layer(x), layer=layer), LATE)
    assert error.message == "the constant p_layer_weight holds NaN in the calibration"
    assert error.lines["found"] == "1 of 16 elements" and "weights" in error.lines["hint"]


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.layer(torch.softmax(torch.where(x > x.mean(), -torch.inf, x), -1)),
        lambda net, x: net.layer(x).masked_fill(x > 0, -torch.inf),
    ],
    ids=["a mask before a softmax", "masked outputs"],
)
def test_infinity_that_no_range_must_hold_is_no_error(function, observer):
    assert quantized(Net(function, layer=linear()), 1, 4, activation_observer=observer)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_constant_activation_is_one_finding(observer):
    """The views after it share its range, and are not named again."""
    net = Net(
        lambda net, x: net.last(functional.relu(net.layer(x)).view(1, 2, 2).view(1, 4)),
        layer=linear(bias=-1000.0),
        last=nn.Linear(4, 3),
    )
    (dead,) = quantized(net, 1, 4, activation_observer=observer).findings
    assert (dead.code, dead.what) == ("constant-activation", "relu (relu)")
    assert re.fullmatch(r"\w+\.py:\d+", dead.where) and dead.text.startswith("every element is 0 for")


def test_activations_that_vary_are_no_finding():
    assert quantized(Net(lambda net, x: net.layer(x), layer=nn.Linear(4, 3)), 1, 4).findings == ()
