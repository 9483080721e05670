"""Integer inputs, truth values, outputs that are inputs, constants or one another: in every engine."""

import pytest
import torch
from torch import nn

from edgecompile.artifact import load_bundle
from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.errors import CaptureFailedError
from edgecompile.graph_pass import run_passes
from edgecompile.program import SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.target import load_target

TARGET = load_target("linux-x86-64")


class Net(nn.Module):
    """What `function` computes with a layer, a table and constants."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.layer, self.table = nn.Linear(4, 4), nn.Embedding(10, 4)
        self.register_buffer("constant", torch.arange(4.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor):
        return self.function(self, x, y)


X = torch.rand(1, 4, generator=torch.Generator().manual_seed(3))
NUMBERS = torch.tensor([[1, 2, 3, 4]])
TRUE = torch.tensor([[True, False, True, False]])


def twice(net, x, y):
    value = net.layer(x)
    return value, value


def views(net, x, y):
    value = net.layer(x)
    return value, value.view(2, 2), value[:, 1:3], value.detach()


CASES = {
    "an input as it is": (lambda net, x, y: x, (X, X)),
    "inputs among outputs": (lambda net, x, y: (y, net.layer(x), x, x), (X, TRUE)),
    "the same tensor twice": (twice, (X, X)),
    "views of an output": (views, (X, X)),
    "a view of an input": (lambda net, x, y: (x.view(2, 2), net.layer(y)), (X, X)),
    "a constant": (lambda net, x, y: (net.constant, net.constant * 2, net.layer(x)), (X, X)),
    "a constant alone": (lambda net, x, y: net.constant, (X, X)),
    "a weight": (lambda net, x, y: (net.layer.weight, net.layer(x)), (X, X)),
    "an input that nothing reads": (lambda net, x, y: net.layer(x), (X, TRUE)),
    "a mask": (lambda net, x, y: net.layer(x).masked_fill(~y, -1.0), (X, TRUE)),
    "a choice": (lambda net, x, y: torch.where(y, net.layer(x), x), (X, TRUE)),
    "one truth value": (lambda net, x, y: torch.where(y, net.layer(x), x), (X, torch.tensor(True))),
    "a product with truth values": (lambda net, x, y: net.layer(x) * y, (X, TRUE)),
    "truth values out": (lambda net, x, y: ((net.layer(x) > 0) & y, ~y), (X, TRUE)),
    "int32 tokens": (lambda net, x, y: net.layer(net.table(x)) * y[..., None], (NUMBERS.int(), TRUE)),
    "int32 arithmetic": (
        lambda net, x, y: (x + y, net.layer((x * y).float() / 20)),
        (NUMBERS.int(), NUMBERS.int() + 1),
    ),
    "int64 out": (lambda net, x, y: (x + 1, net.layer(y).argmax(1)), (NUMBERS, X)),
    "uint8 and int8": (
        lambda net, x, y: net.layer(x.float() / 255) + y.float(),
        (NUMBERS.to(torch.uint8), NUMBERS.to(torch.int8)),
    ),
    "int16 and double": (lambda net, x, y: net.layer(x.float() + y.float()), (NUMBERS.short(), X.double())),
}


def program_of(net, inputs):
    source = SourceModel(name="net", module=net.eval(), exported=None, example_inputs=inputs)
    return run_passes(capture(source, dynamic_batch=False), [entry.name for entry in TARGET.passes])


@pytest.mark.parametrize("case", CASES)
def test_every_engine_computes_it(case):
    function, inputs = CASES[case]
    net = Net(function)
    program = program_of(net, inputs)
    data = Dataset(samples=(Sample(inputs=inputs, label=None),) * 2, spec="one sample")
    quantized = quantize(program, data, TARGET.quantization, QuietProgress())
    expected = torch.utils._pytree.tree_leaves(net(*inputs))
    for lowered, tolerance in ((keep_float(program), 1e-5), (quantized, 0.03)):
        for settings in TARGET.emit.values():
            emitted = load_emitter(settings.emitter).emit(lowered, settings)
            session = load_engine(emitted.engine).load(emitted.data, precise=True)
            given = tuple(value.clone() for value in inputs)
            for _ in range(2):  # an output that shares memory with an input must not change it
                found = session.run(given)
                assert [value.dtype for value in found] == [value.dtype for value in expected]
                for got, wanted in zip(found, expected, strict=True):
                    assert got.shape == wanted.shape
                    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)
            assert all(map(torch.equal, given, inputs)), settings.emitter


def test_a_returned_weight_is_not_changed_by_what_changes_the_layer():
    net = Net(lambda net, x, y: (net.layer.weight, net.layer(x)))
    program = program_of(net, (X, X))
    returned, _ = program.exported.graph.output_node().args[0]
    assert returned.op == "placeholder" and list(returned.users) == [program.exported.graph.output_node()]


def test_none_is_left_out_and_numbers_are_refused():
    program = program_of(Net(lambda net, x, y: (None, net.layer(x), None)), (X, X))
    assert len(program.exported.graph_signature.output_specs) == 1
    for function in (lambda net, x, y: (3, net.layer(x)), lambda net, x, y: ("text", x)):
        with pytest.raises(CaptureFailedError):
            program_of(Net(function), (X, X))
    with pytest.raises(CaptureFailedError, match="returns nothing"):
        program_of(Net(lambda net, x, y: None), (X, X))


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Embedding(20, 8), nn.Linear(8, 4)

    def forward(self, tokens, mask, count):
        value = self.layer((self.table(tokens) * mask[..., None]).sum(1) / count[:, None])
        return value, mask, value.view(-1, 2, 2), tokens, value.argmax(1)

def make():
    tokens, mask = torch.zeros(1, 5, dtype=torch.int32), torch.ones(1, 5, dtype=torch.bool)
    return Net(), (tokens, mask, torch.ones(1).long())

def data():
    generator = torch.Generator().manual_seed(0)
    for index in range(17):
        mask = torch.arange(5)[None] <= index % 5
        tokens = torch.randint(0, 20, (1, 5), generator=generator, dtype=torch.int32)
        yield tokens, mask, mask.sum(1)
"""


def test_a_bundle_with_integers_and_truth_values(cli, tmp_path):
    (tmp_path / "odd.py").write_text(MODEL)
    spec = tmp_path / "odd.py"
    given = ("--target", "linux-x86-64", "--calibration", f"{spec}:data", "--output", tmp_path)
    finished = cli("build", f"{spec}:make", *given)
    assert finished.status == 0, finished.err
    manifest = load_bundle(tmp_path / "linux-x86-64").manifest
    assert [entry.dtype for entry in manifest.inputs] == ["int32", "bool", "int64"]
    assert [entry.dtype for entry in manifest.outputs] == ["float32", "bool", "float32", "int32", "int64"]
    finished = cli("validate", tmp_path / "linux-x86-64")
    assert finished.status == 0, finished.out + finished.err
