"""ONNX Runtime: runs `.onnx` artifacts, and shows what its optimizer makes of them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgecompile.errors import EngineFailedError
from edgecompile.quantize.arithmetic import Arithmetic

_FATAL = 4  # ONNX Runtime's log severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal


@dataclass(frozen=True)
class OnnxruntimeSession:
    """A loaded artifact."""

    session: Any
    input_names: tuple[str, ...]

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs, in the artifact's order.

        Args:
            inputs: One tensor for each input, in the artifact's order.

        Raises:
            EngineFailedError: The inputs do not fit, or an operator failed.
        """
        if len(inputs) != len(self.input_names):
            raise EngineFailedError(
                "ONNX Runtime was given a wrong number of inputs",
                expected=f"{len(self.input_names)} ({', '.join(self.input_names)})",
                found=str(len(inputs)),
            )
        feeds = {
            name: tensor.detach().cpu().contiguous().numpy()
            for name, tensor in zip(self.input_names, inputs, strict=True)
        }
        with _failures("run"):
            outputs = self.session.run(None, feeds)
        return tuple(torch.from_numpy(output) for output in outputs)


class Onnxruntime:
    """The engine `onnxruntime` on the CPU, one thread."""

    name = "onnxruntime"
    arithmetic: Arithmetic = "exact"
    exact_kinds: frozenset[str] = frozenset()

    @staticmethod
    def version() -> str:
        """Return the installed version."""
        return str(onnxruntime.__version__)

    @staticmethod
    def load(data: bytes, *, precise: bool) -> OnnxruntimeSession:
        """Load an artifact.

        Args:
            data: The artifact's bytes.
            precise: Compute signed weights exactly on x86-64 CPUs without VNNI, whose kernels otherwise
                saturate sums of two products in 16 bits. Changes nothing on other CPUs.

        Raises:
            EngineFailedError: ONNX Runtime rejects the artifact.
        """
        options = _options()
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
            data = Onnxruntime.precise_form(data)
        session = _session(data, options)
        return OnnxruntimeSession(session, tuple(value.name for value in session.get_inputs()))

    @staticmethod
    def precise_form(data: bytes) -> bytes:
        """Return the artifact with a weight of its own for each layer."""
        return _with_own_weights(data)


def optimized_graph(data: bytes) -> onnx.GraphProto:
    """Return the graph that ONNX Runtime executes after its fusions on this CPU.

    Layout optimizations (NCHWc blocks) are left out: they rename operators and fuse nothing quantized.

    Raises:
        EngineFailedError: ONNX Runtime rejects the artifact.
    """
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        _session(data, options)
        return onnx.load(path).graph


def optimized_operators(data: bytes) -> dict[str, int]:
    """Return how often each operator occurs in the graph that ONNX Runtime executes on this CPU.

    Raises:
        EngineFailedError: ONNX Runtime rejects the artifact.
    """
    counts = Counter(node.op_type for node in optimized_graph(data).node)
    return dict(sorted(counts.items()))


def _with_own_weights(data: bytes) -> bytes:
    """Return the model with a copy of a quantized weight for each layer that reads it.

    ONNX Runtime 1.32 with `session.x64quantprecision` replaces a weight once for each reader, and fails
    at the second ("Attempt to replace the existing tensor"). The artifact itself stores it once.
    """
    try:
        model = onnx.load_from_string(data)
    except DecodeError:
        return data  # ONNX Runtime says what is wrong with it.
    graph, taken = model.graph, set[str]()
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    copies: list[onnx.NodeProto] = []
    for place, node in enumerate(graph.node):
        if node.op_type == "MatMulInteger":
            _copy_taken(graph, node, constants, taken, f"_integers_{place}")
            continue
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None or weight.input[0] not in constants:
            continue
        if taken.isdisjoint(weight.input):
            taken.update(weight.input)
            continue
        copy = onnx.NodeProto.FromString(weight.SerializeToString())
        suffix = f"_copy_{len(copies)}"
        for name in weight.input:
            tensor = graph.initializer.add()
            tensor.CopyFrom(constants[name])
            tensor.name = name + suffix
        copy.name, copy.output[0] = weight.name + suffix, weight.output[0] + suffix
        copy.input[:] = [name + suffix for name in weight.input]
        node.input[1] = copy.output[0]
        copies.append(copy)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for weight in list(weights.values()):
        if weight.output[0] not in read:
            graph.node.remove(weight)  # dead, it would still count as a reader
    for copy in copies:
        graph.node.insert(0, copy)
    return bytes(model.SerializeToString()) if len(graph.initializer) > len(constants) else data


def _copy_taken(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    taken: set[str],
    suffix: str,
) -> None:
    """Let a MatMulInteger read copies of its weight and the zero point where another node has taken them."""
    for index in (1, 3):
        name = node.input[index] if index < len(node.input) else ""
        if name in taken and name in constants:
            tensor = graph.initializer.add()
            tensor.CopyFrom(constants[name])
            node.input[index] = tensor.name = name + suffix
        taken.add(name)


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    return options


def _session(data: bytes, options: Any) -> Any:
    onnxruntime.set_default_logger_severity(_FATAL)
    with _failures("load"):
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@contextmanager
def _failures(action: str) -> Iterator[None]:
    try:
        yield
    # ONNX Runtime raises a dozen classes without a common base but Exception.
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise EngineFailedError(f"ONNX Runtime could not {action} the artifact", found=first_line) from error
