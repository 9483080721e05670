"""The short way to a .pte gives the same bytes as ExecuTorch's own, whatever the network is made of."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompile.capture import capture
from edgecompile.dataset import Dataset, Sample
from edgecompile.emitters import executorch as emitter
from edgecompile.emitters import onnx as onnx_emitter
from edgecompile.emitters._deferred_code import deferred_code
from edgecompile.emitters._edge_dialect import edge_program
from edgecompile.emitters._own_dequantize import with_own_dequantize
from edgecompile.emitters._xnnpack_forms import in_delegate_forms
from edgecompile.emitters.onnx import Onnx
from edgecompile.engines.executorch import Executorch
from edgecompile.errors import LoweringFailedError
from edgecompile.graph_edit import no_host_kernels
from edgecompile.graph_pass import run_passes
from edgecompile.program import QuantizedProgram, SourceModel
from edgecompile.progress import QuietProgress
from edgecompile.quantize.static_int8 import keep_float, quantize
from edgecompile.target import load_target

TARGET = load_target("android-arm64")


class Pictures(nn.Module):
    """Padding that stays, relu6, depthwise, residual addition, max pooling, concatenation, mean, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self.stem(functional.pad(x, (0, 1, 0, 1))))
        x = torch.relu(x + self.depthwise(x))
        x = torch.cat([x, x * x, x, x, x, x], 1)
        return self.head(functional.max_pool2d(x, 2).mean((2, 3)))


class Sound(nn.Module):
    """One-dimensional convolution, and what decomposes: gelu, layer norm, softmax, batch norm on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(3)
        self.layer_norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.gelu(self.first(self.norm(x))).transpose(1, 2)
        return functional.softmax(self.head(self.layer_norm(x)), -1)


class Attention(nn.Module):
    """Scaled dot-product attention, hardswish and an upsampling that the delegate wants whole."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.heads(x).chunk(3, -1)
        x = functional.hardswish(functional.scaled_dot_product_attention(query, key, value))
        return functional.interpolate(x[:, None], scale_factor=2, mode="bilinear")


class LeftOut(nn.Module):
    """Linears that the delegate does not take, because a weight is computed: they must be decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.linear(x), x.sin())


class Curves(nn.Module):
    """Operators that are the same in the edge dialect, and numbers, which are tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.leaky_relu(functional.avg_pool2d(self.conv(x), 2))
        x = (x + 3) * 0.25 / 2
        return torch.sigmoid(x) - torch.tanh(x) / torch.sigmoid(x + x)


class Gated(nn.Module):
    """Two delegates with an operator between them that none takes, and outputs of one by one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return x * functional.hardsigmoid(self.gate(x.mean((2, 3), keepdim=True)))


# ExecuTorch's own way takes its time: one of them is for every run of the tests.
OTHERS = [(Pictures, (1, 3, 12, 12), "fp32")] + [
    (network, shape, precision)
    for network, shape in (
        (Sound, (1, 3, 8)),
        (Attention, (1, 4, 8)),
        (LeftOut, (6, 6)),
        (Curves, (1, 3, 8, 8)),
        (Gated, (1, 3, 8, 8)),
    )
    for precision in ("int8", "fp32")
]
CASES = [
    (Pictures, (1, 3, 12, 12), "int8"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS),
]


def lowered_program(
    network: type[nn.Module], shape: tuple[int, ...], precision: str, *, dynamic: bool = False
) -> QuantizedProgram:
    torch.manual_seed(0)
    source = SourceModel(
        name="net", module=network().eval(), exported=None, example_inputs=(torch.rand(shape),)
    )
    program = run_passes(capture(source, dynamic_batch=dynamic), [entry.name for entry in TARGET.passes])
    if precision == "fp32":
        return keep_float(program)
    samples = tuple(Sample(inputs=(torch.rand(shape),), label=None) for _ in range(3))
    return quantize(program, Dataset(samples=samples, spec="noise"), TARGET.quantization, QuietProgress())


class Prelus(nn.Module):
    """PReLU after a linear layer, after a one-dimensional convolution, and after a two-dimensional one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(16, 4)])
        self.slopes = nn.ModuleList([nn.PReLU(4), nn.PReLU(), nn.PReLU(4)])
        for slope in self.slopes:
            nn.init.uniform_(slope.weight, -1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis, layer, slope in zip((3, 2, 1), self.layers, self.slopes, strict=True):
            x = slope(layer(x.flatten(axis)))
        return x


def stock_bytes(program: QuantizedProgram, *, alloc_graph_input: bool = True) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    planning = MemoryPlanningPass(alloc_graph_input=alloc_graph_input)

    with warnings.catch_warnings(), contextlib.redirect_stderr(None):
        warnings.simplefilter("ignore")
        edge = to_edge_transform_and_lower(
            with_own_dequantize(in_delegate_forms(program.exported)),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        return bytes(edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning)).buffer)


class Tail(nn.Module):
    """An activation that is fused into what then is an output, before a pass that traces."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_an_output_with_a_fused_activation(precision):
    program = lowered_program(Tail, (1, 3, 8), precision)
    assert emitter.Executorch.emit(program, TARGET.emit["pte"]).data == stock_bytes(program)


@pytest.mark.parametrize(("network", "shape", "precision"), CASES)
def test_same_bytes_as_the_stock_flow(network, shape, precision):
    program = lowered_program(network, shape, precision)
    emitted = emitter.Executorch.emit(program, TARGET.emit["pte"])
    assert emitted.data == stock_bytes(program)


@pytest.mark.parametrize(("network", "shape", "precision"), CASES)
def test_the_same_onnx_as_the_stock_export_but_for_names(network, shape, precision, monkeypatch):
    program = lowered_program(network, shape, precision)
    quick = onnx.load_from_string(Onnx.emit(program, TARGET.emit["onnx"]).data).graph
    monkeypatch.setattr(onnx_emitter, "quick_export", contextlib.nullcontext)
    stock = onnx.load_from_string(Onnx.emit(program, TARGET.emit["onnx"]).data).graph
    assert [nameless(node) for node in quick.node] == [nameless(node) for node in stock.node]
    constants = [
        Counter((tuple(item.dims), item.data_type, item.raw_data) for item in graph.initializer)
        for graph in (quick, stock)
    ]
    assert constants[0] == constants[1]


def nameless(node: onnx.NodeProto) -> tuple[object, ...]:
    # What a Reshape does with sizes of 0, of which there are none, depends on its operator in ATen.
    attributes = [item.SerializeToString() for item in node.attribute if item.name != "allowzero"]
    return node.op_type, len(node.input), len(node.output), attributes


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_same_bytes_with_a_dynamic_batch(precision):
    program = lowered_program(Pictures, (1, 3, 12, 12), precision, dynamic=True)
    emitted = emitter.Executorch.emit(program, TARGET.emit["pte"])
    with no_host_kernels():
        assert emitted.data == stock_bytes(program, alloc_graph_input=False)


@pytest.mark.parametrize(("network", "shape"), [(Curves, (1, 3, 8, 8)), (Gated, (1, 3, 8, 8))])
def test_a_network_is_translated_without_tracing(network, shape):
    from executorch.exir import EdgeCompileConfig

    program = lowered_program(network, shape, "fp32")
    assert edge_program(program.exported, EdgeCompileConfig()) is not None


def test_a_quantized_network_is_translated_without_tracing():
    from executorch.exir import EdgeCompileConfig

    program = lowered_program(Pictures, (1, 3, 12, 12), "int8")
    whole = [torch.ops.aten.linear.default, torch.ops.aten.max_pool2d.default]
    assert edge_program(program.exported, EdgeCompileConfig(preserve_ops=whole)) is not None
    assert edge_program(program.exported, EdgeCompileConfig()) is None  # max_pool2d decomposes into two


@pytest.mark.parametrize("dynamic", [False, True])
def test_prelu_is_delegated_whatever_the_number_of_axes(dynamic):
    program = lowered_program(Prelus, (1, 3, 3, 8), "fp32", dynamic=dynamic)
    emitted = emitter.Executorch.emit(program, TARGET.emit["pte"])
    assert emitted.delegates == {"xnnpack": 1}
    x = torch.randn(1, 3, 3, 8)
    (found,) = Executorch.load(emitted.data, precise=False).run((x,))
    with torch.no_grad():
        torch.testing.assert_close(found, program.exported.module(check_guards=False)(x))


@pytest.mark.slow
def test_an_unknown_version_runs_all_passes(monkeypatch):
    monkeypatch.setattr("edgecompile.emitters._known_versions._KNOWN_VERSIONS", {})
    program = lowered_program(Pictures, (1, 3, 12, 12), "int8")
    assert emitter.Executorch.emit(program, TARGET.emit["pte"]).data == stock_bytes(program)


def test_what_an_emit_replaces_is_back_afterwards():
    import executorch.exir.program._program as edge_passes
    from executorch.backends.xnnpack import xnnpack_preprocess

    def replaced() -> tuple[object, ...]:
        return (
            edge_passes._get_aten_to_edge_passes,
            edge_passes.MemoryFormatOpsPass,
            xnnpack_preprocess.XNNPACKPassManager,
            torch.fx.GraphModule.recompile,
        )

    before = replaced()
    emitter.Executorch.emit(lowered_program(Sound, (1, 3, 8), "fp32"), TARGET.emit["pte"])
    assert replaced() == before


def test_deferred_code_runs_when_it_is_called():
    with deferred_code():
        module = torch.fx.symbolic_trace(nn.ReLU())
    assert module(torch.tensor([-1.0, 2.0])).tolist() == [0, 2]
    assert "relu" in module.code


@pytest.mark.parametrize(
    ("function", "shape", "missing"),
    [
        (lambda x: x.cummax(1)[0], (1, 8), "aten::cummax"),
        (lambda x: nn.functional.conv3d(x, torch.ones(1, 1, 2, 2, 2)), (1, 1, 4, 4, 4), "aten::convolution"),
    ],
)
def test_what_executorch_has_no_kernel_for_is_refused(function, shape, missing):
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    program = lowered_program(Model, shape, "fp32")
    for make in (emitter.Executorch.emit, emitter.Executorch.foresee):
        with pytest.raises(LoweringFailedError, match=f"no kernel for {missing}") as refused:
            make(program, TARGET.emit["pte"])
        assert refused.value.lines["where"].startswith("test_lowering.py:")
        assert refused.value.exit_status == 3
