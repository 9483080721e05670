"""The recovery of pruned programs, and the student that is trained."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgecompile.capture import capture
from edgecompile.checkpoint import Checkpoint
from edgecompile.dataset import Sample
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.pruning import distill as module_under_test
from edgecompile.pruning.channel_groups import find_groups
from edgecompile.pruning.distill import distill_pruned
from edgecompile.pruning.float_student import FloatStudent
from edgecompile.pruning.remove_channels import remove_channels
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import all_values
from edgecompile.target import load_target

SETTINGS = replace(
    load_target("android-arm64").pruning, distillation_steps=60, distillation_batch=8, distillation_rate=0.02
)


class Attention(nn.Module):
    """A class token, joined by a literal batch of 1, an embedding and a layer norm."""

    def __init__(self):
        super().__init__()
        self.table, self.token = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.norm, self.hidden, self.last = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.table(x)], 1)
        return self.last(torch.relu(self.hidden(self.norm(x)))[:, 0] + torch.relu(self.hidden(x)).mean(1))


class Upscale(nn.Module):
    """A transposed convolution, a group norm, and a second output of integers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(1, 12)
        self.up, self.last = nn.ConvTranspose2d(12, 8, 2, stride=2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.last(torch.relu(self.up(torch.relu(self.norm(self.first(x))))))
        return y, y.argmax(1)


def convolutions():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.BatchNorm2d(16, affine=False),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    generator = torch.Generator().manual_seed(5)
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.2 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return net


def picture(generator):
    return torch.randn(1, 3, 10, 10, generator=generator)


NETS = {
    "convolutions": (convolutions, picture),
    "attention": (Attention, lambda generator: torch.randint(0, 20, (1, 6), generator=generator)),
    "upscale": (Upscale, picture),
}


def case(name, count=25, dynamic_batch=False):
    """Return the pruned program and samples."""
    torch.manual_seed(3)
    make, draw = NETS[name]
    generator = torch.Generator().manual_seed(9)
    samples = [Sample(inputs=(draw(generator),), label=None) for _ in range(count)]
    source = SourceModel(name=name, module=make().eval(), exported=None, example_inputs=samples[0].inputs)
    whole = capture(source, dynamic_batch=dynamic_batch).exported
    groups = find_groups(whole)
    keep = torch.ones(groups.count, dtype=torch.bool)
    for group in groups.groups:
        keep[group.units[::4]] = False
    assert not bool(keep.all())
    return remove_channels(whole, groups, keep), samples


def recovered(name, checkpoint=None, **settings):
    pruned, samples = case(name)
    chosen = replace(SETTINGS, **settings)
    after, findings = distill_pruned(pruned, samples, chosen, QuietProgress(), checkpoint)
    return pruned.whole, pruned.exported, after.exported, samples, findings


def first_output(program, sample):
    module = program.module(check_guards=False)
    with torch.no_grad():
        found = module(*sample.inputs)
    return found[0] if isinstance(found, tuple) else found


def error(program, whole, samples):
    """Return the squared error of the first outputs as a share of their power."""
    pairs = [(first_output(program, sample), first_output(whole, sample)) for sample in samples]
    return float(sum((one - other).square().sum() / other.square().sum() for one, other in pairs))


def equal(one, other):
    left, right = constants_of(one), constants_of(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", NETS)
def test_the_recovered_program_is_nearer_to_the_whole_one(name):
    whole, pruned, after, samples, findings = recovered(name)
    assert error(after, whole, samples[-5:]) < 0.8 * error(pruned, whole, samples[-5:])
    assert error(after, whole, samples[:-5]) < 0.8 * error(pruned, whole, samples[:-5])
    assert not findings


@pytest.mark.parametrize("name", NETS)
def test_shapes_statistics_and_the_graph_stay(name):
    _, pruned, after, _, _ = recovered(name, distillation_steps=10)
    before, found = constants_of(pruned), constants_of(after)
    assert {key: value.shape for key, value in before.items()} == {
        key: value.shape for key, value in found.items()
    }
    kept = [key for key in before if "running" in key or "token" in key]
    assert all(torch.equal(before[key], found[key]) for key in kept)
    assert any(not torch.equal(before[key], found[key]) for key in before)
    assert [str(node.target) for node in pruned.graph.nodes] == [
        str(node.target) for node in after.graph.nodes
    ]


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_the_student_gives_what_the_program_does_one_by_one_or_joined(name, dynamic_batch):
    pruned, samples = case(name, 4, dynamic_batch)
    student = FloatStudent(pruned.exported, samples)
    assert student.together > 1
    joined = [torch.cat(values) for values in zip(*(sample.inputs for sample in samples), strict=True)]
    (found, *_) = student.outputs(joined, student.constants())
    expected = torch.cat([first_output(pruned.exported, sample) for sample in samples])
    assert torch.allclose(found, expected, atol=1e-5)
    assert equal(student.written(), pruned.exported)


def test_batch_norms_are_folded_while_it_is_trained():
    pruned, samples = case("convolutions")
    student = FloatStudent(pruned.exported, samples)
    assert len(student._norms) == 3


def test_a_program_that_mixes_its_samples_runs_one_by_one():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x - x.mean())

    samples = [Sample(inputs=(torch.randn(1, 4),), label=None) for _ in range(3)]
    program = torch.export.export(Mixing().eval(), samples[0].inputs)
    assert FloatStudent(program, samples).together == 1


def test_samples_of_several_sizes_run_one_by_one():
    samples = [Sample(inputs=(torch.randn(1, 3, size, 8),), label=None) for size in (8, 8, 9)]
    height = torch.export.Dim("height", min=4, max=64)
    net = nn.Conv2d(3, 4, 3).eval()
    program = torch.export.export(net, samples[0].inputs, dynamic_shapes=({2: height},))
    assert FloatStudent(program, samples[:2]).together > 1
    assert FloatStudent(program, samples).together == 1


def test_a_bias_of_zeros_has_the_magnitude_of_what_it_is_added_to():
    net = nn.Linear(4, 3)
    nn.init.zeros_(net.bias)
    samples = [Sample(inputs=(torch.randn(1, 4),), label=None) for _ in range(3)]
    student = FloatStudent(torch.export.export(net.eval(), samples[0].inputs), samples)
    assert all(parameter.rate > 0 for parameter in student.parameters)


def kept_of(hint, values):
    value = values[hint.node]
    for axis, indices in hint.kept.items():
        value = value.index_select(axis, indices)
    return value


@pytest.mark.parametrize("name", NETS)
def test_hints_are_the_channels_that_stay(name):
    pruned, samples = case(name)
    hints = module_under_test._hints(pruned)
    found, wanted = (all_values(own, samples[0].inputs) for own in (pruned.exported, pruned.whole))
    assert hints
    assert all(found[node].shape == kept_of(hint, wanted).shape for node, hint in hints)
    if name == "convolutions":  # what is read before anything that is summed over is missing
        node, hint = hints[0]
        assert torch.allclose(found[node], kept_of(hint, wanted), atol=1e-6)


def test_an_interrupted_recovery_goes_on_bit_for_bit(tmp_path, monkeypatch):
    own, runs = FloatStudent.outputs, []

    def outputs(self, inputs, constants):
        runs.append(inputs)
        if len(runs) == 40:
            raise KeyboardInterrupt
        return own(self, inputs, constants)

    *_, expected, _, _ = recovered("convolutions")
    checkpoint = Checkpoint(tmp_path / "state", "key")
    monkeypatch.setattr(FloatStudent, "outputs", outputs)
    with pytest.raises(KeyboardInterrupt):
        recovered("convolutions", checkpoint)
    assert checkpoint.path.exists()
    _, _, after, _, findings = recovered("convolutions", checkpoint)
    assert equal(after, expected)
    assert len(runs) < 100  # 60 steps and 11 looks at the held-out samples, of which one was interrupted
    assert not findings
    assert not checkpoint.path.exists()


def test_no_steps_change_nothing():
    _, pruned, after, _, findings = recovered("convolutions", distillation_steps=0)
    assert after is pruned
    assert not findings


def test_a_state_that_is_no_better_is_not_kept():
    _, pruned, after, _, findings = recovered("convolutions", distillation_rate=1e4)
    assert after is pruned
    assert [row.code for row in findings] == ["distillation-without-gain"]
    assert findings[0].what == "recovery after pruning"


def test_a_recovery_without_time_says_so():
    *_, findings = recovered("convolutions", distillation_minutes=1e-9)
    assert [row.code for row in findings] == ["distillation-time-up"]
