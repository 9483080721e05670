"""`edgecompile.prune`: what it gives trains and copies as the module does, and what goes wrong is said."""

import copy
import io

import pytest
import torch
from measured import Composed
from torch import nn
from torch.nn import functional

import edgecompile
from edgecompile.errors import (
    DataMismatchError,
    EdgecompileError,
    EmptyDataError,
    InvalidPruningError,
    NotFiniteDataError,
    UnknownLayerError,
    UnknownTargetError,
)
from edgecompile.progress import QuietProgress
from edgecompile.pruning.trainable import TrainableGraph

EXAMPLE = (torch.zeros(1, 3, 8, 8),)
SMALL = {"minimum_width": 2, "channel_multiple": 2}


class Net(nn.Module):
    def __init__(self, norm=None):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = norm or nn.BatchNorm2d(16)
        self.second, self.dropout, self.head = nn.Conv2d(16, 16, 3), nn.Dropout(0.5), nn.Linear(16, 4)

    def forward(self, x):
        x = functional.relu(self.second(functional.relu(self.norm(self.first(x)))))
        return self.head(self.dropout(x.mean((2, 3))))


def network(norm=None):
    torch.manual_seed(0)
    return Net(norm)


def pictures(count=16, batch=1):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 8, 8, generator=generator) for _ in range(count)]


def prune(module=None, example=EXAMPLE, ratio=0.4, calibration=None, **settings):
    given = pictures() if calibration is None else calibration
    return edgecompile.prune(module or network(), example, ratio, calibration=given, **SMALL, **settings)


@pytest.fixture(scope="module")
def pruned():
    return prune()


def test_it_has_the_modules_names_and_smaller_shapes(pruned):
    whole = network()
    own, names = pruned.state_dict(), whole.state_dict()
    assert own.keys() | {"norm.num_batches_tracked", "first.bias"} == names.keys() | {"first.bias"}
    assert {name for name, _ in pruned.named_parameters()} - {"first.bias"} == {
        name for name, _ in whole.named_parameters()
    }
    assert all(own[name].numel() <= names[name].numel() for name in own.keys() & names.keys())
    assert sum(map(torch.numel, pruned.parameters())) < 0.8 * sum(map(torch.numel, whole.parameters()))
    assert not pruned.training


def test_it_is_near_the_module_for_any_batch(pruned):
    x = torch.cat(pictures(7))
    with torch.no_grad():
        found, wanted = pruned(x), network().eval()(x)
    assert found.shape == wanted.shape
    assert float((found - wanted).square().mean()) < 0.3 * float(wanted.var())


def test_it_trains(pruned):
    own = copy.deepcopy(pruned).train()
    x, wanted = torch.cat(pictures(16)), torch.randn(16, 4, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(own.parameters(), 0.02)
    torch.manual_seed(3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.mse_loss(own(x), wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in own.parameters())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_modes_are_those_of_the_module():
    """With nothing removed and nothing fitted, it gives what the module gives, and tracks what it tracks."""
    whole = network()
    own = prune(whole, ratio=0.0, least_squares=False)
    x = torch.cat(pictures(8))
    for mode in (True, False, True, False):
        for each in (whole, own):
            each.train(mode)
        torch.manual_seed(4)
        one = whole(x)
        torch.manual_seed(4)
        assert torch.allclose(one, own(x), atol=1e-6)
        for name in ("running_mean", "running_var"):
            assert torch.allclose(getattr(whole.norm, name), getattr(own.norm, name), atol=1e-6)
    assert torch.equal(own(x), own(x))
    own.train()
    assert not torch.equal(own(x), own(x))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(16, track_running_stats=False),
        nn.InstanceNorm2d(16, affine=True),
        nn.InstanceNorm2d(16, track_running_stats=True),
    ],
)
def test_norms_of_other_kinds(norm):
    whole = network(norm)
    own = prune(whole, ratio=0.0, least_squares=False)
    x = torch.cat(pictures(8))
    for mode in (False, True, False):
        for each in (whole, own):
            each.train(mode)
            torch.manual_seed(5)
            each.result = each(x)
        assert torch.allclose(whole.result, own.result, atol=1e-6)


def test_the_module_is_not_changed():
    whole = network().train()
    whole.norm.eval()  # frozen, as for a finer training
    whole.first.weight.requires_grad_(False)
    before = copy.deepcopy(whole.state_dict())
    own = prune(whole)
    assert whole.training
    assert whole.first.training
    assert not whole.norm.training
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert {name for name, value in own.named_parameters() if not value.requires_grad} == {"first.weight"}
    with torch.no_grad():
        own.head.bias.add_(1)
    assert torch.equal(whole.head.bias, before["head.bias"])


@pytest.mark.parametrize("mode", [False, True])
def test_copies_and_pickles_are_whole(pruned, mode):
    own = copy.deepcopy(pruned).train(mode)
    buffer = io.BytesIO()
    torch.save(own, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(own), torch.load(buffer, weights_only=False)):
        assert isinstance(again, TrainableGraph)
        assert again.training is mode
        x = torch.cat(pictures(4))
        torch.manual_seed(6)
        found = again(x)
        torch.manual_seed(6)
        assert torch.equal(found, own(x))
        assert not torch.equal(again.train()(x), again.eval()(x))


def test_its_state_goes_there_and_back(pruned):
    buffer = io.BytesIO()
    torch.save(pruned.state_dict(), buffer)
    buffer.seek(0)
    other = copy.deepcopy(pruned)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    other.load_state_dict(torch.load(buffer))
    x = pictures(1)[0]
    assert torch.equal(other(x), pruned(x))


def test_batches_are_taken_apart():
    single = prune(calibration=pictures(16))
    generator = iter([torch.cat(pictures(16))[:10], torch.cat(pictures(16))[10:]])
    joined = prune(calibration=generator)
    assert all(torch.equal(value, single.state_dict()[name]) for name, value in joined.state_dict().items())


def test_no_more_calibration_is_read_than_is_used():
    def endless():
        while True:
            yield from pictures(4)

    assert isinstance(prune(calibration=endless(), samples=8), nn.Module)


def test_a_module_of_one_batch_size():
    whole = Composed(lambda own, x: own.net(x.reshape(2, 3, 8, 8)), net=network())
    own = prune(whole, (torch.zeros(2, 3, 8, 8),), calibration=pictures(batch=2))
    assert own(pictures(1, batch=2)[0]).shape == (2, 4)
    with pytest.raises(DataMismatchError):
        prune(whole, (torch.zeros(2, 3, 8, 8),), calibration=pictures(batch=1))


def test_several_inputs_and_outputs():
    torch.manual_seed(7)
    whole = Composed(
        lambda own, x, index: (own.head(functional.relu(own.first(x)) + own.table(index)), index + 1),
        first=nn.Linear(6, 16),
        table=nn.Embedding(5, 16),
        head=nn.Linear(16, 3),
    )
    inputs = [(torch.randn(1, 6), torch.randint(0, 5, (1,))) for _ in range(12)]
    found, following = prune(whole, inputs[0], calibration=inputs)(
        torch.randn(4, 6), torch.tensor([0, 1, 2, 3])
    )
    assert found.shape == (4, 3)
    assert following.tolist() == [1, 2, 3, 4]


class Notes(QuietProgress):
    def __init__(self):
        self.stages, self.notes = [], []

    def start(self, stage, total=None):
        self.stages.append(stage)

    def note(self, text):
        self.notes.append(text)


def test_it_can_be_distilled():
    progress = Notes()
    heavy = {"ratio": 0.7, "least_squares": False}
    own = prune(progress=progress, distillation_steps=60, **heavy)
    assert "recover" in progress.stages
    assert not progress.notes
    whole, x = network().eval(), torch.cat(pictures())
    with torch.no_grad():
        before, after = (float((each(x) - whole(x)).square().sum()) for each in (prune(**heavy), own))
    assert after < 0.8 * before


def test_a_training_without_gain_is_said():
    progress = Notes()
    prune(progress=progress, distillation_steps=5, distillation_rate=1e4)
    assert len(progress.notes) == 1
    assert "no state was better" in progress.notes[0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ratio": 1}, InvalidPruningError, "no share"),
        ({"ratio": -0.1}, InvalidPruningError, "no share"),
        ({"ratio": float("nan")}, InvalidPruningError, "no share"),
        ({"calibration": []}, EmptyDataError, "there is none"),
        ({"importanc": "l2"}, InvalidPruningError, "unknown key 'importanc'"),
        ({"importance": "tailor"}, InvalidPruningError, "pruning.importance"),
        ({"exclude": ["nothing*"]}, UnknownLayerError, "there is no layer"),
        ({"target": "android"}, UnknownTargetError, "there is no target"),
        ({"calibration": [torch.zeros(1, 1, 8, 8)]}, DataMismatchError, "does not fit the model"),
        ({"calibration": [torch.zeros(4, 3, 9, 9)]}, DataMismatchError, "does not fit the model"),
        ({"calibration": [torch.zeros(3, 8)]}, DataMismatchError, "does not fit the model"),
        ({"calibration": [EXAMPLE[0].double()]}, DataMismatchError, "does not fit the model"),
        ({"calibration": [EXAMPLE * 2]}, DataMismatchError, "number of inputs"),
        ({"calibration": [EXAMPLE[0] * torch.nan]}, NotFiniteDataError, "NaN"),
        ({"calibration": ["picture"]}, DataMismatchError, "no.* numeric array"),
        ({"example": (torch.zeros(1, 4, 8, 8),)}, EdgecompileError, "example inputs"),
    ],
)
def test_what_goes_wrong_is_said(options, error, text):
    with pytest.raises(error, match=text):
        prune(**options)


MODEL = """
import torch

def model():
    return torch.load({path!r}, weights_only=False), (torch.zeros(1, 3, 8, 8),)

def data():
    generator = torch.Generator().manual_seed(5)
    for _ in range(8):
        yield torch.randn(1, 3, 8, 8, generator=generator)
"""


def test_it_can_be_built(pruned, tmp_path, monkeypatch, capsys):
    from edgecompile.artifact import load_bundle
    from edgecompile.cli.main import main

    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path / "cache"))
    torch.save(pruned, tmp_path / "pruned.pt")
    file = tmp_path / "model.py"
    file.write_text(MODEL.format(path=str(tmp_path / "pruned.pt")))
    arguments = ["--target", "linux-x86-64", "--format", "onnx", "--calibration", f"{file}:data"]
    status = main(["build", f"{file}:model", *arguments, "--output", str(tmp_path / "out")])
    assert status == 0, capsys.readouterr().err
    bundle = load_bundle(tmp_path / "out" / "linux-x86-64")
    assert [item.format for item in bundle.manifest.artifacts] == ["onnx"]
    assert not [row["missed"] for row in bundle.report_dict()["quality"] if row["missed"]]
