"""The main graph of an ONNX model as an engine sees it: kernels, their weights and quantization."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from edgecompile.readers.contents import LayerInfo, LayerKind, TensorInfo

ENGINE = "onnxruntime"
CONVS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger"})
LINEARS = frozenset({"Gemm", "MatMul", "QLinearMatMul", "MatMulInteger", "MatMulNBits"})
INTEGER_OPERATORS = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger"})
QUANTIZATIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
BOUNDARIES = QUANTIZATIONS | {"Constant"}
# ONNX Runtime folds these into the kernel before them.
ACTIVATIONS = frozenset({"Relu", "Clip"})
# A weight may pass through these between its dequantization and its layer.
REARRANGEMENTS = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class Graph:
    """The main graph with its edges in both directions."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = list(graph.node)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in self._nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.output)}
        self._output_names = {value.name for value in graph.output}
        # Old exporters list the weights among the inputs.
        self.inputs = [value for value in graph.input if value.name not in self._initializers]

    def layers(self) -> Iterator[LayerInfo]:
        """Yield the operators between the quantize and dequantize nodes, with what is fused into them."""
        fused: set[str] = set()
        for place, node in enumerate(self._nodes):
            if node.op_type in BOUNDARIES or not node.output or node.output[0] in fused:
                continue
            unit = self._unit(node)
            fused.update(part.output[0] for part in unit[1:])
            yield self._layer(unit, _text(node.name) or f"{node.op_type.lower()}_{place}")

    def _unit(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that the engine runs as one kernel: with the bias and the activation."""
        unit = [node]
        after = self._only_consumer(node)
        if (
            node.op_type in {"MatMul", "MatMulNBits"}
            and after
            and after.op_type == "Add"
            and self._has_constant(after)
        ):
            unit.append(after)
            after = self._only_consumer(after)
        if after and after.op_type in ACTIVATIONS:
            unit.append(after)
        return unit

    def _layer(self, unit: list[onnx.NodeProto], name: str) -> LayerInfo:
        node, last = unit[0], unit[-1]
        weight, dequantized = self._weight(node)
        kind: LayerKind = "conv" if node.op_type in CONVS else "linear" if weight else "other"
        after = self._only_consumer(last)
        quantize = after if after and after.op_type == "QuantizeLinear" else None
        scale, zero_point = self._parameters(quantize) if quantize else (None, None)
        data = [node.input[0]] if weight else [item for item in node.input if self._is_data(item)]
        integer = bool(quantize and data) and all(map(self._is_dequantized, data))
        return LayerInfo(
            name=name,
            operator=operator_name(node),
            where=ENGINE,
            kind=kind,
            integer=node.op_type in INTEGER_OPERATORS or (integer and (kind == "other" or dequantized)),
            weight_bytes=_size_bytes(weight) if weight else 0,
            weight_dtype=_weight_dtype(node, weight) if weight else None,
            shape=self._shapes.get(last.output[0]),
            scale=scale,
            zero_point=zero_point,
            clamp=self._clamp(last),
        )

    def _weight(self, node: onnx.NodeProto) -> tuple[onnx.TensorProto | None, bool]:
        """Return the weight of a conv or linear, if it is constant, and whether it is dequantized."""
        place = 3 if node.op_type in {"QLinearConv", "QLinearMatMul"} else 1
        if node.op_type not in CONVS | LINEARS or len(node.input) <= place:
            return None, False
        name, dequantized = node.input[place], False
        for _ in range(8):
            if name in self._initializers:
                return self._initializers[name], dequantized
            producer = self._producers.get(name)
            if producer is None or not self._passes_weights(producer):
                return None, False
            dequantized = dequantized or producer.op_type == "DequantizeLinear"
            name = producer.input[0]
        return None, False

    def _passes_weights(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node dequantizes or rearranges; integers are also dequantized by Cast and Mul."""
        scales = node.op_type == "Mul" and node.input[1] in self._initializers
        return scales or node.op_type in {"DequantizeLinear", "Cast", *REARRANGEMENTS}

    def _is_data(self, name: str) -> bool:
        """Tell an input that carries data from one that is left out or constant."""
        producer = self._producers.get(name)
        constant = name in self._initializers or (producer is not None and producer.op_type == "Constant")
        return bool(name) and not constant

    def _is_dequantized(self, name: str) -> bool:
        producer = self._producers.get(name)
        return producer is not None and producer.op_type == "DequantizeLinear"

    def _has_constant(self, node: onnx.NodeProto) -> bool:
        return any(not self._is_data(name) for name in node.input)

    def _only_consumer(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the one node that takes the output, None if others or the caller take it too."""
        consumers = self._consumers.get(node.output[0], [])
        if len(consumers) != 1 or node.output[0] in self._output_names:
            return None
        return consumers[0] if consumers[0].output else None

    def _parameters(self, boundary: onnx.NodeProto) -> tuple[float | None, int | None]:
        """Return a (de)quantize node's scale and zero point, None if they are not single constants."""
        scale, zero_point = (self._scalar(name) for name in [*boundary.input[1:3], ""][:2])
        return scale, None if scale is None else int(zero_point or 0)

    def _clamp(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        if node.op_type == "Relu":
            return 0.0, math.inf
        if node.op_type != "Clip":
            return None
        lower, upper = (self._scalar(name) for name in [*node.input[1:3], "", ""][:2])
        return -math.inf if lower is None else lower, math.inf if upper is None else upper

    def _scalar(self, name: str) -> float | None:
        tensor = self._initializers.get(name)
        if tensor is None or math.prod(tensor.dims) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def tensor(self, value: onnx.ValueInfoProto) -> TensorInfo:
        """Return an input or output, with the scale of the node that (de)quantizes it."""
        nodes = [self._producers.get(value.name), *self._consumers.get(value.name, [])]
        boundary = next((node for node in nodes if node and node.op_type in QUANTIZATIONS), None)
        scale, zero_point = self._parameters(boundary) if boundary else (None, None)
        return TensorInfo(
            name=_text(value.name),
            shape=_shape(value),
            dtype=_dtype(value.type.tensor_type.elem_type),
            scale=scale,
            zero_point=zero_point,
        )


def operator_name(node: onnx.NodeProto) -> str:
    """Return `Conv`, or `domain::Name` outside ONNX's own domain."""
    name = _text(node.op_type)
    return f"{_text(node.domain)}::{name}" if node.domain else name


def _text(value: str | bytes) -> str:
    """Return a string field, which protobuf hands over as bytes if it is not UTF-8.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bytes):
        raise ValueError(f"a name is not UTF-8: {value[:40]!r}")
    return value


def _weight_dtype(node: onnx.NodeProto, weight: onnx.TensorProto) -> str:
    bits = next((item.i for item in node.attribute if item.name == "bits"), 8)
    return f"int{bits}" if node.op_type == "MatMulNBits" else _dtype(weight.data_type)


def _dtype(element_type: int) -> str:
    names = {"float": "float32", "double": "float64"}
    name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    return names.get(name, name)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    elements: int = math.prod(tensor.dims)
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    if name in {"INT4", "UINT4"}:
        return (elements + 1) // 2
    return elements * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        size.dim_value if size.HasField("dim_value") else _text(size.dim_param) or "?"
        for size in value.type.tensor_type.shape.dim
    )
