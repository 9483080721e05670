"""How good layers are: against brute force, on nets with a bad layer planted, and where programs differ."""

import json
import math

import numpy as np
import pytest
import torch
from quantized_net import SETTINGS, Net, quantized_beside_float
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from edgecompile.capture import capture
from edgecompile.compare import closeness
from edgecompile.dataset import Dataset, Sample
from edgecompile.decibels import LOWEST_SQNR_DB
from edgecompile.layer_quality import LOW_SQNR_DB
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.exact_layer import ExactLayer
from edgecompile.quantize.layers import quantized_layers
from edgecompile.quantize.measure_layers import measure_layers
from edgecompile.quantize.reference import Reference, dequantize_tensor, quantize_tensor
from edgecompile.quantize.static_int8 import quantize


def normal(*shape, count=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def measured(module, values, **settings):
    """Quantize on other normal samples, and return the layers on these."""
    torch.manual_seed(0)
    in_float, program = quantized_beside_float(module, *values[0].shape, **settings)
    return measure_layers(program, in_float.exported, as_samples(values)), program


def as_samples(values):
    return [Sample(inputs=(value,), label=None) for value in values]


def decibels(value, other):
    value, other = value.double().numpy(), other.double().numpy()
    return 10 * math.log10((value**2).sum() / ((other - value) ** 2).sum())


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 6, 1), nn.ReLU()).eval()


def test_every_number_against_brute_force():
    net, values = network(), [2 * value for value in normal(1, 3, 9, 9)]  # more than was calibrated on
    report, program = measured(net, values)
    first, second = quantized_layers(program.exported)
    assert [row.name for row in report.rows] == [first.name, second.name]
    assert [row.inputs for row in report.rows] == [("input",), (first.name,)]
    with torch.no_grad():
        floats = [(value, net[:2](value), net(value)) for value in values]
    for row, layer, index in zip(report.rows, (first, second), (1, 2), strict=True):
        own, ends = [], []
        for value, sample in zip(floats, values, strict=True):
            read = quantize_tensor(value[index - 1], layer.input_parameters[0])
            output = ExactLayer(layer).compute([read], "exact")
            own.append(dequantize_tensor(output, layer.output_parameters))
            seen = {}
            Reference(program.exported).run(
                [sample], lambda at, _, out, seen=seen: seen.update({at.name: out})
            )
            ends.append(dequantize_tensor(seen[layer.name], layer.output_parameters))
        wanted = torch.cat([value[index] for value in floats])
        assert row.own_sqnr_db == pytest.approx(decibels(wanted, torch.cat(own)), abs=1e-6)
        assert row.sqnr_db == pytest.approx(decibels(wanted, torch.cat(ends)), abs=1e-6)
        assert (row.minimum, row.maximum) == (float(wanted.min()), float(wanted.max()))
        scale, zero_point = row.scale, row.zero_point
        assert (scale, zero_point) == (layer.output_parameters.scale, layer.output_parameters.zero_point)
        steps = np.rint(wanted.numpy() * (np.float32(1) / np.float32(scale))) + zero_point
        outside = sum(int(step < -128 or step > 127) for step in steps.flatten())
        assert row.clipped_share == outside / steps.size > 0


def test_the_last_layer_is_as_good_as_the_model():
    net, values = network(), normal(1, 3, 9, 9)
    report, program = measured(net, values)
    reference = Reference(program.exported)
    with torch.no_grad():
        whole = closeness([reference.run([value]) for value in values], [(net(value),) for value in values])
    assert report.rows[-1].sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-6)
    assert report.samples == 3 and report.first_fall is None
    assert all(row.own_sqnr_db > LOW_SQNR_DB for row in report.rows)
    assert report.rows[0].sqnr_db == report.rows[0].own_sqnr_db  # nothing is quantized before its input


class Blocks(nn.Module):
    """Pointwise, depthwise, pointwise: the block in which channels go wrong."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.expand, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)
        self.project, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        h = self.depthwise(F.relu(self.expand(x)))
        return self.head(F.relu(self.project(h)))


def test_a_dead_channel_with_large_weights_is_found_in_its_layer():
    """As batch norm leaves it: one scale for all weights is that of a channel that says nothing."""
    net = Blocks().eval()
    with torch.no_grad():
        net.expand.weight[0], net.expand.bias[0] = 0, -1  # dead behind its relu
        net.depthwise.weight[0] *= 1000
    values = normal(1, 3, 12, 12)
    report, _ = measured(net, values, weight_granularity="per-tensor")
    assert [row.name for row in report.rows] == ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3"]
    assert report.first_fall == "conv2d_1" and report.rows[1].own_sqnr_db < 5
    assert report.rows[0].own_sqnr_db > LOW_SQNR_DB
    assert "conv2d_1" in report.fall_text() and "by itself" in report.fall_text()
    report, _ = measured(net, values, weight_granularity="per-channel")
    assert report.first_fall is None


def test_channels_of_different_ranges_are_found_where_they_are_read():
    """The small channels are lost on the depthwise layer's grid; its large ones hide that there."""
    net = Blocks().eval()
    ratio = torch.logspace(0, 3, 8).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        net.depthwise.weight *= ratio
        net.depthwise.bias *= ratio.flatten()
        net.project.weight /= ratio.reshape(1, -1, 1, 1)
    report, _ = measured(net, normal(1, 3, 12, 12))
    assert report.first_fall == "conv2d_2"
    assert min(row.own_sqnr_db for row in report.rows[:2]) > LOW_SQNR_DB > report.rows[2].own_sqnr_db


def powers(net, x):
    h = net.stem(x)
    h = h * h
    return net.head(h * h)


@pytest.mark.parametrize(("calibrated_on_it", "name"), [(True, "mul_1"), (False, "mul")])
def test_an_outlier_is_found_in_the_layer_that_makes_it(calibrated_on_it, name):
    """In the range it costs all other values their steps, outside it is clipped."""
    torch.manual_seed(0)
    net = Net(powers, stem=nn.Conv2d(1, 1, 1, bias=False), head=nn.Conv2d(1, 2, 1))
    nn.init.ones_(net.stem.weight)
    plain = torch.rand(1, 1, 128, 128)
    value = plain.clone()
    value[0, 0, 3, 3] = 4  # and 16, and 256
    in_float = captured(net, value)
    program = converted(in_float, [value if calibrated_on_it else plain])
    report = measure_layers(program, in_float.exported, as_samples([value]))
    assert [row.name for row in report.rows] == ["conv2d", "mul", "mul_1", "conv2d_1"]
    assert report.first_fall == name
    assert report.rows[2].maximum == 256
    assert {row.clipped_share for row in report.rows[:3]} == {0 if calibrated_on_it else 1 / 128**2}


def test_operators_in_float_stand_between_the_layers():
    def forward(net, x):
        return net.head(torch.erf(net.stem(x)).cos())

    net = Net(forward, stem=nn.Conv2d(3, 4, 1), head=nn.Conv2d(4, 2, 1))
    report, program = measured(net, normal(1, 3, 6, 6))
    assert [row.name for row in report.rows] == ["conv2d", "erf", "cos", "conv2d_1"]
    assert [row.inputs for row in report.rows] == [("x",), ("conv2d",), ("erf",), ("cos",)]
    reasons = {row.what: row.reason for row in program.unquantized}
    for row in report.rows[1:3]:
        assert row.reason == reasons[f"{row.kind} ({row.name})"]
        assert row.sqnr_db is row.own_sqnr_db is row.minimum is row.scale is None
    assert report.rows[3].reason is None and report.rows[3].sqnr_db > LOW_SQNR_DB


def test_a_clamp_a_padding_and_a_residual_are_of_their_layer():
    def forward(net, x):
        h = F.relu6(net.first(F.pad(x, (0, 1, 0, 1))))
        return F.relu(h + net.second(h))

    net = Net(forward, first=nn.Conv2d(3, 4, 2), second=nn.Conv2d(4, 4, 1))
    values = normal(1, 3, 6, 6)
    report, _ = measured(net, values)
    assert [(row.name, row.inputs) for row in report.rows] == [
        ("conv2d", ("x",)),
        ("conv2d_1", ("conv2d",)),
        ("add", ("conv2d", "conv2d_1")),
    ]
    with torch.no_grad():
        assert report.rows[2].maximum == max(float(net(value).max()) for value in values)
    assert report.rows[0].minimum == 0 == report.rows[2].minimum


def captured(module, value):
    """Capture alone, without the passes that tidy up."""
    source = SourceModel(name="net", module=module.eval(), exported=None, example_inputs=(value,))
    return capture(source, dynamic_batch=False)


def converted(in_float, values):
    data = Dataset(samples=tuple(as_samples(values)), spec="given")
    return quantize(in_float, data, SETTINGS, QuietProgress())


def test_what_the_conversion_computes_or_drops_moves_no_layer():
    """Constants are computed once, and what nothing reads goes: the programs differ in length."""

    def forward(net, x):
        torch.relu(net.first(x))  # nothing reads it
        return net.second(net.first(x)) + net.first(net.constant) * 2 * net.first(net.constant)

    torch.manual_seed(0)
    parts = {"first": nn.Conv2d(3, 4, 1), "second": nn.Conv2d(4, 4, 1), "constant": torch.rand(1, 3, 6, 6)}
    values = normal(1, 3, 6, 6)
    in_float = captured(Net(forward, **parts), values[0])
    program = converted(in_float, values)
    report = measure_layers(program, in_float.exported, as_samples(values))
    rows = {row.name: row for row in report.rows}
    assert [layer.name for layer in quantized_layers(program.exported)] == [
        row.name for row in report.rows if row.reason is None or "depend" in row.reason
    ]
    for layer in quantized_layers(program.exported):
        row = rows[layer.name]
        if row.reason is None:
            assert row.own_sqnr_db > LOW_SQNR_DB and row.kind == layer.kind
    assert {"conv2d", "add"} <= {row.kind for row in report.rows if row.reason is None}
    assert any("does not depend on the model's inputs" in (row.reason or "") for row in report.rows)


def test_no_error_and_no_signal():
    net = Blocks().eval()
    with torch.no_grad():
        net.expand.weight.zero_()
        net.expand.bias.fill_(-1)  # zero after its relu
    report, _ = measured(net, normal(1, 3, 12, 12))
    assert report.rows[0].sqnr_db is report.rows[0].own_sqnr_db is None
    torch.manual_seed(0)
    steep = nn.Conv2d(1, 1, 1)  # 1 is between two steps of its input
    with torch.no_grad():
        steep.weight.fill_(100)
        steep.bias.fill_(-100)
    in_float = captured(steep, torch.ones(1, 1, 4, 4))
    program = converted(in_float, [0.9 + 0.2 * torch.rand(1, 1, 4, 4)])
    report = measure_layers(program, in_float.exported, as_samples([torch.ones(1, 1, 4, 4)]))
    assert (report.rows[0].maximum, report.rows[0].sqnr_db) == (0, LOWEST_SQNR_DB)


def test_values_that_are_no_numbers_are_still_json():
    net = Net(lambda net, x: net.stem(x) * net.stem(x), stem=nn.Conv2d(3, 4, 1))
    report, _ = measured(net, [1e30 * value for value in normal(1, 3, 6, 6)])
    bad = report.rows[-1]
    assert (bad.kind, bad.sqnr_db, bad.maximum) == ("mul", LOWEST_SQNR_DB, None)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["first_fall"] == report.first_fall


def test_nothing_is_run_where_nothing_is_quantized():
    net = Net(lambda net, x: torch.softmax(x, 1))
    report, _ = measured(net, normal(1, 4))
    assert (report.samples, report.first_fall) == (0, None)
    assert [row.kind for row in report.rows] == ["softmax"] and report.fall_text() == "no layer is quantized"
