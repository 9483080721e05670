"""A quantized program that is trained against its float program."""

import dataclasses

import pytest
import torch
from quantized_net import SETTINGS, TARGET, Net, quantized_beside_float
from torch import nn

from edgecompile import distillation
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.progress import QuietProgress
from edgecompile.quantize.distill import distill
from edgecompile.quantize.fake_quantized import FakeQuantized
from edgecompile.quantize.layers import QUANTIZE, parameters_of, quantized_layers
from edgecompile.quantize.reference import Reference


def branches(net, x):
    left, right = torch.relu(net.left(x)), net.right(x)
    joined = torch.cat([left, right + left], 1)
    return net.last(nn.functional.max_pool2d(joined, 2).mean((2, 3), keepdim=True).flatten(1))


NETS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()),
    "branches": lambda: Net(
        branches, left=nn.Conv2d(3, 8, 3), right=nn.Conv2d(3, 8, 3), last=nn.Linear(16, 10)
    ),
}
TRAINED = {"distillation_steps": 60, "distillation_rate": 0.05, "distillation_batch": 4, "weight_bits": 4}


def trained(name, samples=20, **settings):
    """Return the float program, the program before and after the training, and the samples."""
    torch.manual_seed(3)
    net = NETS[name]()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    chosen = dataclasses.replace(SETTINGS, **TRAINED | settings)
    in_float, before = quantized_beside_float(
        net, 1, 3, 10, 10, weight_bits=chosen.weight_bits, power_of_two_scales=chosen.power_of_two_scales
    )
    generator = torch.Generator().manual_seed(9)
    data = [
        Sample(inputs=(torch.randn(1, 3, 10, 10, generator=generator),), label=None) for _ in range(samples)
    ]
    return in_float, before, distill(before, in_float, data, chosen, QuietProgress()), data


def error(program, in_float, samples):
    """Return the squared error of the exact integers' outputs, as a share of the outputs' power."""
    reference, module = Reference(program.exported), in_float.exported.module(check_guards=False)
    with torch.no_grad():
        pairs = [(reference.run(sample.inputs)[0], module(*sample.inputs)) for sample in samples]
    return float(sum((found - wanted).square().sum() / wanted.square().sum() for found, wanted in pairs))


@pytest.mark.parametrize("name", NETS)
def test_the_trained_program_is_nearer_to_float(name):
    in_float, before, after, samples = trained(name)
    seen, held = samples[:-4], samples[-4:]
    assert error(after, in_float, seen) < 0.95 * error(before, in_float, seen)
    assert error(after, in_float, held) < error(before, in_float, held)
    assert not after.findings


@pytest.mark.parametrize("name", NETS)
def test_it_stays_a_program_that_every_engine_computes(name):
    _, before, after, _ = trained(name)
    for old, new in zip(quantized_layers(before.exported), quantized_layers(after.exported), strict=True):
        assert (old.name, old.kind) == (new.name, new.kind)
        for source, end in zip(new.sources, new.inputs, strict=True):
            assert parameters_of(source) == parameters_of(end)
        assert old.output_parameters.zero_point == new.output_parameters.zero_point
        if new.weights is None:
            continue
        assert torch.equal(old.weights.scales, new.weights.scales)
        assert new.weights.weight.dtype == torch.int8
        assert int(new.weights.weight.abs().max()) <= 7
        steps = new.weights.bias.double() / (new.weights.scales.double() * new.input_parameters[0].scale)
        assert (steps - steps.round()).abs().max() < 1e-3


def test_what_shares_a_scale_shares_it_afterwards():
    _, before, after, _ = trained("branches")
    for layer in quantized_layers(after.exported):
        if layer.kind in ("cat", "max_pool2d", "view"):
            assert {layer.output_parameters} == set(layer.input_parameters)
    scales = [
        {parameters_of(node).scale for node in program.exported.graph.nodes if node.target is QUANTIZE}
        for program in (before, after)
    ]
    assert len(scales[0]) == len(scales[1])
    assert scales[0].isdisjoint(scales[1])


def test_scales_that_are_powers_of_two_stay():
    _, before, after, _ = trained("plain", power_of_two_scales=True)
    own = [layer.output_parameters for layer in quantized_layers(after.exported)]
    assert own == [layer.output_parameters for layer in quantized_layers(before.exported)]


@pytest.mark.parametrize("name", NETS)
def test_the_student_computes_what_the_integers_give(name):
    _, _, after, samples = trained(name)
    student = FakeQuantized(after.exported, limit=7, learn_scales=True)
    for program in (after.exported, student.written()):
        reference = Reference(program)
        for sample in samples[:5]:
            (exact,) = reference.run(sample.inputs)
            (real,) = student.outputs(sample.inputs, student.constants())
            step = quantized_layers(program)[-1].output_parameters.scale
            assert float((exact - real).abs().max()) <= 1.01 * step
            assert float((exact != real).float().mean()) < 0.05 or torch.allclose(exact, real, atol=1e-5)


def test_an_untrained_student_writes_the_program_that_it_was_made_from():
    _, before, *_ = trained("branches", distillation_steps=1)
    student = FakeQuantized(before.exported, limit=7, learn_scales=True)
    for old, new in zip(quantized_layers(before.exported), quantized_layers(student.written()), strict=True):
        assert old.output_parameters == new.output_parameters
        if old.weights is not None:
            assert torch.equal(old.weights.weight, new.weights.weight)
            assert torch.allclose(old.weights.bias, new.weights.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("format_name", "engine", "arithmetic"),
    [
        ("onnx", "onnxruntime", "exact"),
        ("ptl", "torchscript-lite", "qnnpack"),
        ("pte", "executorch", "xnnpack"),
    ],
)
def test_artifacts_equal_the_reference(format_name, engine, arithmetic):
    _, _, after, samples = trained("plain", weight_bits=8)
    settings = TARGET.emit[format_name]
    emitted = load_emitter(settings.emitter).emit(after, settings)
    session = load_engine(engine).load(emitted.data, precise=True)
    reference = Reference(after.exported, arithmetic)
    step = quantized_layers(after.exported)[-1].output_parameters.scale
    for sample in samples[:3]:
        (found,), (exact,) = session.run(list(sample.inputs)), reference.run(sample.inputs)
        steps = ((found - exact) / step).round().abs()
        assert float(steps.max()) <= 1
        assert float((steps == 0).float().mean()) > 0.999


def test_the_same_data_gives_the_same_program():
    first, second = (trained("plain")[2] for _ in range(2))
    for old, new in zip(quantized_layers(first.exported), quantized_layers(second.exported), strict=True):
        assert old.output_parameters == new.output_parameters
        assert torch.equal(old.weights.weight, new.weights.weight)
        assert torch.equal(old.weights.bias, new.weights.bias)


def test_a_state_that_is_no_better_is_not_kept():
    _, before, after, _ = trained("plain", distillation_rate=50.0, weight_bits=8)
    assert after.exported is before.exported
    assert [row.code for row in after.findings] == ["distillation-without-gain"]


def test_a_loss_that_is_not_finite_ends_it_with_the_best_so_far(monkeypatch):
    calls = []
    own = distillation._Training._losses

    def losses(self, chosen, constants):
        calls.append(chosen)
        values = own(self, chosen, constants)
        return [value * float("nan") for value in values] if len(calls) > 200 else values

    monkeypatch.setattr(distillation._Training, "_losses", losses)
    in_float, before, after, samples = trained("plain")
    assert 200 < len(calls) <= 204  # one step, or one look at the held-out samples
    (finding,) = after.findings
    assert finding.code == "distillation-not-finite"
    assert error(after, in_float, samples[-4:]) < error(before, in_float, samples[-4:])
    assert all(bool(layer.weights.bias.isfinite().all()) for layer in quantized_layers(after.exported))


def test_a_training_without_time_says_so():
    _, _, after, _ = trained("plain", distillation_minutes=1e-9)
    assert [row.code for row in after.findings] == ["distillation-time-up", "distillation-without-gain"]
    assert "after 1 of 60 steps" in after.findings[0].text


def test_a_training_with_little_time_takes_fewer_steps(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(distillation.time, "monotonic", lambda: next(ticks))
    in_float, before, after, samples = trained("plain", distillation_minutes=25 / 60)
    assert [row.code for row in after.findings] == ["distillation-time-up"]
    assert error(after, in_float, samples) < error(before, in_float, samples)


def test_no_steps_change_nothing():
    _, before, after, _ = trained("plain", distillation_steps=0)
    assert after is before


def test_one_sample_is_enough():
    in_float, before, after, samples = trained("plain", samples=1)
    assert error(after, in_float, samples) <= error(before, in_float, samples)
