"""MODEL to a captured program: what is accepted, and what each refusal says."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile

import pytest
import torch
from torch import nn
from torch.export import export

from edgecompile.capture import capture, load_model
from edgecompile.errors import (
    CaptureFailedError,
    MissingExampleInputsError,
    ModelFunctionFailedError,
    ModelInputsMismatchError,
    ModelNotFoundError,
    NotAModuleError,
    UnreadableModelFileError,
)
from edgecompile.graph_edit import source_line, user_input_names
from edgecompile.graph_pass import run_pass

HEADER = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("state", torch.zeros(4))

    def forward(self, x):
        {body}

def make():
    return Net(), {inputs}
"""
BODY_LINE = 13


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a model file and return MODEL for its function `make`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def write_model(body="return self.linear(x)", inputs="(torch.rand(2, 4),)", name="net.py"):
        text = body if "def make" in body else HEADER.format(body=body, inputs=inputs)
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}:make"

    return write_model


def captured(spec, *, dynamic_batch=False):
    return capture(load_model(spec), dynamic_batch=dynamic_batch)


def run(program, *inputs):
    outputs = program.exported.module(check_guards=False)(*inputs)
    return torch.utils._pytree.tree_leaves(outputs)


# --- what is accepted


def test_a_file_and_a_module(write, monkeypatch):
    assert captured(write()).name == "net"
    write(name="a_module_for_capture.py")
    assert captured("a_module_for_capture:make").name == "a_module_for_capture"


def test_a_tensor_or_a_list_as_example_inputs(write):
    for index, inputs in enumerate(["torch.rand(2, 4)", "[torch.rand(2, 4)]"]):
        source = load_model(write(inputs=inputs, name=f"net{index}.py"))
        assert [tuple(tensor.shape) for tensor in source.example_inputs] == [(2, 4)]


def test_evaluation_mode(write):
    program = captured(write("return nn.functional.dropout(x, training=self.training) * 1"))
    x = torch.rand(2, 4)
    assert torch.equal(run(program, x)[0], x)


def test_example_inputs_become_contiguous(write):
    source = load_model(write(inputs="torch.rand(2, 3, 5, 5).to(memory_format=torch.channels_last)"))
    assert source.example_inputs[0].is_contiguous()


def test_names_of_several_inputs(write):
    text = """
import torch
class Net(torch.nn.Module):
    def forward(self, input, mask, other):
        return {"sum": input + other, "parts": (mask * 2, [other * 3])}
def make():
    same = torch.ones(2, 3)
    return Net(), (same, same, same)
"""
    program = captured(write(text))
    assert user_input_names(program.exported) == ("input", "mask", "other")
    one, two, three = torch.rand(3, 2, 3)
    assert all(map(torch.equal, run(program, one, two, three), (one + three, two * 2, three * 3)))


def test_outputs_that_are_inputs_or_constants(write):
    program = captured(write("return x, self.state, x.view(-1)"))
    x = torch.rand(2, 4)
    assert all(map(torch.equal, run(program, x), (x, torch.zeros(4), x.reshape(-1))))


def test_an_input_that_is_written(write):
    program = captured(write("return x.add_(1)"))
    x = torch.rand(2, 4)
    assert torch.equal(run(program, x.clone())[0], x + 1)
    assert len(program.exported.graph_signature.output_specs) == 1


def test_pythons_operators_have_names_that_engines_know(write):
    program = captured(write("return (x > 0) & (x < 1), (x > 0) | (x < -1), (x > 0) ^ (x < 1)"))
    x = torch.randn(2, 4)
    assert all(map(torch.equal, run(program, x), ((x > 0) & (x < 1), (x > 0) | (x < -1), (x > 0) ^ (x < 1))))
    assert not any("__" in node.name for node in program.exported.graph.nodes)


def test_a_dynamic_batch(write):
    program = captured(write("return self.linear(x).relu_()", "torch.rand(1, 4)"), dynamic_batch=True)
    for batch in (1, 2, 7):
        assert run(program, torch.rand(batch, 4))[0].shape == (batch, 4)


def test_a_dynamic_batch_of_several_inputs(write):
    text = """
import torch
class Net(torch.nn.Module):
    def forward(self, *parts):
        return parts[0] * parts[2] + parts[1]
def make():
    return Net(), (torch.rand(1, 3), torch.rand(1, 3), torch.tensor(2.0))
"""
    program = captured(write(text), dynamic_batch=True)
    assert run(program, torch.ones(5, 3), torch.ones(5, 3), torch.tensor(3.0))[0].sum() == 60


def test_source_lines_are_the_users(write):
    program = captured(write("return nn.functional.layer_norm(self.linear(x), (4,))"))
    lines = {source_line(node) for node in program.exported.graph.nodes if node.op == "call_function"}
    assert lines == {f"net.py:{BODY_LINE}"}
    relu = captured(write("return nn.Sequential(self.linear, nn.ReLU6())(x.float())", name="other.py"))
    lines = {source_line(node) for node in relu.exported.graph.nodes if node.op == "call_function"}
    assert lines == {f"other.py:{BODY_LINE}"}


# --- the function


@pytest.mark.parametrize(
    ("body", "says"), [("raise ValueError('no weights')", "no weights"), ("sys.exit(3)", "SystemExit")]
)
def test_a_function_that_fails(write, body, says):
    spec = write(f"import sys\ndef make():\n    {body}\n")
    with pytest.raises(ModelFunctionFailedError, match=says) as caught:
        load_model(spec)
    assert caught.value.lines["where"] == f"net.py:3 in make: {body}"


@pytest.mark.parametrize("returned", ["3", "None", "(3, torch.rand(1))", "Net", "{}"])
def test_no_module(write, returned):
    with pytest.raises(NotAModuleError, match="returned"):
        load_model(write(f"import torch\nclass Net(torch.nn.Module): ...\ndef make(): return {returned}\n"))


@pytest.mark.parametrize("inputs", ["(torch.rand(1), 3)", "'x'", "{'x': 1.0}", "[[None]]", "3"])
def test_example_inputs_that_are_no_tensors(write, inputs):
    with pytest.raises(NotAModuleError, match="example inputs of type"):
        load_model(write(inputs=inputs))


def test_no_example_inputs(write):
    with pytest.raises(MissingExampleInputsError) as caught:
        load_model(write("import torch\ndef make(): return torch.nn.ReLU()\n"))
    assert "torch.rand" in caught.value.lines["hint"]


@pytest.mark.parametrize("inputs", ["(torch.rand(2, 5),)", "(torch.rand(2, 4), torch.rand(2, 4))", "()"])
def test_inputs_that_the_model_does_not_take(write, inputs):
    with pytest.raises(ModelInputsMismatchError) as caught:
        captured(write(inputs=inputs))
    assert caught.value.exit_status == 2
    if "5" in inputs:
        assert caught.value.lines["where"] == f"net.py:{BODY_LINE} in forward: return self.linear(x)"
        assert "(2, 5)" in caught.value.lines["found"]


def test_a_model_that_exits(write):
    with pytest.raises(ModelInputsMismatchError, match="SystemExit"):
        captured(write("sys.exit(1)"))


# --- what cannot be captured


@pytest.mark.parametrize(
    ("body", "where", "hint"),
    [
        ("return x if x.sum() > 0 else -x", "net.py:13 in forward: return x if x.sum()", "torch.where"),
        ("return x[: int(x.sum().item() > 0) + 1]", "net.py:13", ""),
        ("return x * x.max().item()", "net.py:13", "with the tensor itself"),
        ("return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: -x, (x,))", "net.py:13", "torch.where"),
        ("return x * 2, 3", None, "tensors only"),
        ("self.state.add_(1); return x + self.state", None, "as an output"),
        ("return x.numpy().sum()", "net.py:13", "tensor operations only"),
    ],
)  # fmt: skip
def test_what_cannot_be_captured(write, body, where, hint):
    with pytest.raises(CaptureFailedError) as caught:
        captured(write(body))
    assert caught.value.exit_status == 3
    if where is not None:
        assert caught.value.lines["where"].startswith(where)
    assert hint in caught.value.lines["hint"]


def test_a_buffer_is_called_by_its_own_name(write):
    with pytest.raises(CaptureFailedError, match="its own buffer 'state'"):
        captured(write("self.state.copy_(x[0]); return x + self.state"))


def test_autocast_names_itself(write):
    with pytest.raises(CaptureFailedError, match="autocast"):
        captured(write("with torch.autocast('cpu'): return self.linear(x)"))


def test_a_write_to_what_may_be_a_view(write):
    with pytest.raises(CaptureFailedError, match="may be a view"):
        captured(write("h = x * 2; a, b = torch.broadcast_tensors(h, h[:1]); a.add_(1); return h"))


def test_a_model_that_fixes_its_batch(write):
    with pytest.raises(CaptureFailedError) as caught:
        captured(write("return x.view(2, 2, 2)"), dynamic_batch=True)
    assert "leave --dynamic-batch out" in caught.value.lines["hint"]


# --- .pt2


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "saved.pt2"
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    size = ({0: torch.export.Dim("batch", min=1, max=8)},)
    torch.export.save(export(net, (torch.rand(2, 4),), dynamic_shapes=size), path)
    return path


def altered(path, change):
    """Write a copy of an archive; `change` maps a member's name and bytes to new bytes."""
    result = path.with_name("altered.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(result, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, change(name, source.read(name)))
    return str(result)


def test_a_saved_program(saved):
    source = load_model(str(saved))
    assert source.name == "saved"
    program = capture(source, dynamic_batch=False)
    assert run(program, torch.rand(5, 4))[0].shape == (5, 3)
    assert run_pass("remove-dead-code", program.exported).rewrites == 0


def test_a_saved_program_without_inputs(tmp_path):
    program = export(nn.ReLU(), (torch.rand(2, 4),))
    program._example_inputs = None
    torch.export.save(program, tmp_path / "bare.pt2")
    assert load_model(str(tmp_path / "bare.pt2")).example_inputs[0].shape == (2, 4)


def test_keyword_inputs(tmp_path):
    class Net(nn.Module):
        def forward(self, x, scale):
            return x * scale

    path = tmp_path / "keyword.pt2"
    torch.export.save(export(Net(), (torch.rand(2),), {"scale": torch.rand(2)}), path)
    program = capture(load_model(str(path)), dynamic_batch=False)
    assert user_input_names(program.exported) == ("x", "scale")
    x, scale = torch.rand(2), torch.rand(2)
    assert torch.equal(run(program, x, scale)[0], x * scale)


def test_no_such_file():
    with pytest.raises(ModelNotFoundError):
        load_model("missing.pt2")


@pytest.mark.parametrize("content", [b"", b"only text", b"PK\x03\x04 no archive"])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(UnreadableModelFileError, match="cannot be read"):
        load_model(str(path))


def test_truncated(saved):
    saved.write_bytes(saved.read_bytes()[:-500])
    with pytest.raises(UnreadableModelFileError) as caught:
        load_model(str(saved))
    assert "torch.export.save" in caught.value.lines["hint"]


class Evil:
    """Unpickling this would touch a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled(path):
    buffer = io.BytesIO()
    torch.save(Evil(path), buffer)
    return buffer.getvalue()


def test_refuses_pickled_example_inputs(saved, tmp_path):
    evil = pickled(tmp_path / "ran")
    path = altered(saved, lambda name, data: evil if "/sample_inputs/" in name else data)
    with pytest.raises(UnreadableModelFileError):
        load_model(path)
    assert not (tmp_path / "ran").exists()


def test_refuses_pickled_weights(saved, tmp_path):
    def change(name, data):
        if name.endswith("weights_config.json"):
            config = json.loads(data)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config)
        return pickled(tmp_path / "ran") if "/weights/weight_" in name else data

    with pytest.raises(UnreadableModelFileError, match="could run code"):
        load_model(altered(saved, change))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "member",
    [
        "saved/data/weights/model.pt",
        "saved/data/constants/model.pt",
        "saved/data/constants/custom_obj_0",
        "saved/data/aotinductor/model/model.so",
        "serialized_state_dict.pt",
        "saved/data/WEIGHTS/WEIGHT_0",
    ],
)
def test_refuses_members_that_run_code(saved, tmp_path, member):
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(member, pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(UnreadableModelFileError):
        load_model(str(saved))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    ["__import__('os').getpid()", "exec(chr(112))", "breakpoint()", "exit()", "lambda", "s0.bit_length()", 3],
)
def test_refuses_sizes_that_run_code(saved, text):
    def change(name, data):
        if not name.endswith("models/model.json"):
            return data
        replaced = json.loads(
            data, object_hook=lambda item: item | {"expr_str": text} if "expr_str" in item else item
        )
        return json.dumps(replaced)

    with pytest.raises(UnreadableModelFileError, match="size that is no expression"):
        load_model(altered(saved, change))


def test_dynamic_batch_of_a_saved_program_must_have_been_captured(tmp_path):
    program = torch.export.export(torch.nn.Linear(4, 2), (torch.rand(1, 4),))
    torch.export.save(program, tmp_path / "fixed.pt2")
    source = load_model(str(tmp_path / "fixed.pt2"))
    with pytest.raises(CaptureFailedError, match="fixed batch of 1"):
        capture(source, dynamic_batch=True)
