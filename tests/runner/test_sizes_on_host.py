"""Samples of several sizes in the native runners."""

import pytest
import torch
from torch import nn

from edgecompile.artifact_run import in_python, over_connection
from edgecompile.capture import capture
from edgecompile.connections.host import Host
from edgecompile.dynamic_size import parse_dynamic
from edgecompile.emitter import load_emitter
from edgecompile.program import SourceModel
from edgecompile.quantize.static_int8 import keep_float
from edgecompile.target import load_target


@pytest.mark.parametrize("name", ["pte", "ptl", "onnx"])
def test_samples_of_several_sizes_come_back_in_order(host_tools, name):
    module = nn.Sequential(nn.ReLU(), nn.Conv1d(2, 4, 3, padding=1)).eval()
    source = SourceModel(
        name="net", module=module, exported=None, example_inputs=(torch.rand(1, 2, 6),), example_keywords={}
    )
    sizes = parse_dynamic({"input:2": "length:2..32"}, "test")
    program = keep_float(capture(source, dynamic_batch=False, dynamic=sizes))
    settings = load_target("linux-x86-64").emit[name]
    emitted = load_emitter(settings.emitter).emit(program, settings)
    samples = [(torch.rand(1, 2, length),) for length in (5, 32, 5, 2)]
    expected = list(in_python(name, emitted.engine, emitted.data, precise=True).run(samples))
    with Host() as host:
        run = over_connection(name, emitted.engine, emitted.data, connection=host, precise=True)
        found = list(run.run(samples))
    assert [value.shape[2] for (value,) in found] == [5, 32, 5, 2]
    assert all(torch.equal(*pair) for pair in zip(sum(found, ()), sum(expected, ()), strict=True))
