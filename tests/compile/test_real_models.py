"""Real networks at full size: everything in one delegate, every convolution and linear layer in INT8."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from edgecompile.artifact import Emitted
from edgecompile.capture import capture, load_model
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.engines.onnxruntime import optimized_operators
from edgecompile.graph_pass import run_passes
from edgecompile.program import QuantizedProgram
from edgecompile.progress import QuietProgress
from edgecompile.quantize.reference import Reference
from edgecompile.quantize.static_int8 import quantize
from edgecompile.readers import pte, ptl
from edgecompile.readers.contents import EXECUTED_IN_FLOAT, EXECUTED_IN_INTEGER
from edgecompile.target import load_target

EXAMPLES = Path(__file__).parents[2] / "examples"
# How many convolutions and linear layers each network has.
LAYERS = {"mobilenet_v2": 53, "efficientnet_lite0": 50, "resnet18": 21}


@dataclass(frozen=True, kw_only=True)
class Built:
    """One network, quantized and emitted in every format."""

    layers: int
    program: QuantizedProgram
    emitted: dict[str, Emitted]
    sample: tuple[torch.Tensor, ...]


@pytest.fixture(scope="module", params=sorted(LAYERS))
def built(request: pytest.FixtureRequest) -> Iterator[Built]:
    name = request.param
    sys.path.insert(0, str(EXAMPLES))
    target = load_target("android-arm64")
    module = importlib.import_module(name)
    inputs = [(item[0] if isinstance(item, tuple) else item,) for item in islice(module.calibration(), 4)]
    captured = capture(load_model(f"{EXAMPLES / name}.py:model"), dynamic_batch=False)
    rewritten = run_passes(captured, [entry.name for entry in target.passes])
    data = Dataset(samples=tuple(Sample(inputs=item, label=None) for item in inputs), spec="photographs")
    program = quantize(rewritten, data, target.quantization, QuietProgress())
    emitted = {key: load_emitter(value.emitter).emit(program, value) for key, value in target.emit.items()}
    yield Built(layers=LAYERS[name], program=program, emitted=emitted, sample=inputs[0])
    sys.path.remove(str(EXAMPLES))


def test_pte_is_one_delegate_call_and_nothing_else(built: Built) -> None:
    contents = pte.read(built.emitted["pte"].data)
    assert contents.delegates == {"xnnpack": 1} or list(contents.delegates.values()) == [1]
    assert contents.outside_delegate == {}
    assert (contents.integer_layers, contents.float_layers) == (built.layers, 0)
    assert built.emitted["pte"].declined == ()


def test_ptl_runs_every_layer_in_int8(built: Built) -> None:
    contents = ptl.read(built.emitted["ptl"].data)
    assert (contents.integer_layers, contents.float_layers) == (built.layers, 0)
    operators = contents.operators
    kernels = ("quantized::conv", "quantized::linear")
    quantized = sum(count for name, count in operators.items() if name.startswith(kernels))
    assert quantized == built.layers
    assert not any(name.startswith(("aten::conv", "aten::linear", "aten::addmm")) for name in operators)


def test_onnx_runtime_executes_every_layer_in_int8(built: Built) -> None:
    executed = optimized_operators(built.emitted["onnx"].data)
    assert sum(executed.get(name, 0) for name in EXECUTED_IN_INTEGER) == built.layers
    assert sum(executed.get(name, 0) for name in EXECUTED_IN_FLOAT) == 0


@pytest.mark.parametrize("format_name", ["pte", "ptl"])
def test_outputs_equal_the_integer_exact_reference_bit_for_bit(built: Built, format_name: str) -> None:
    item = built.emitted[format_name]
    engine = load_engine(item.engine)
    outputs = engine.load(item.data, precise=True).run(built.sample)
    expected = Reference(built.program.exported, engine.arithmetic).run(built.sample)
    assert all(torch.equal(got, wanted) for got, wanted in zip(outputs, expected, strict=True))


def test_nothing_stays_in_float(built: Built) -> None:
    assert built.program.unquantized == ()
