"""The payload of ExecuTorch's XNNPACK delegate: a graph, and constants kept in it or in the `.pte`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from edgecompile.readers.contents import INTEGER_DTYPES, LayerInfo, LayerKind
from edgecompile.readers.flatbuffer import Buffer, Schema, Table, parse_schema
from edgecompile.readers.schema_files import schema_text

HEADER_MAGIC = b"XH00"
# The runtime's schema is the superset: it reads the graphs of either identifier.
IDENTIFIERS = (b"XN00", b"XN01")
DTYPES = {
    **dict.fromkeys(("qint8", "qcint8", "qdint8", "qpint8"), "int8"),
    **dict.fromkeys(("qint32", "qcint32"), "int32"),
    **dict.fromkeys(("qcint4", "qbint4"), "int4"),
    **dict.fromkeys(("fp32", "pfp32"), "float32"),
    "fp16": "float16",
    "bf16": "bfloat16",
    "quint8": "uint8",
}


@cache
def _schema() -> Schema:
    return parse_schema(schema_text("backends/xnnpack/serialization/runtime_schema.fbs"))


class _Value:
    """A tensor of the graph."""

    def __init__(self, value: Table) -> None:
        kind, table = value.union("xvalue_union")
        tensor: Table | None = table
        self.scale: float | None = None
        self.zero_point: int | None = None
        if kind == "XNNQuantizedTensorValue":
            tensor = table.table("tensor_value")
            method, quantization = table.union("quant_params")
            if method == "PerTensorQuant":
                self.scale = float(quantization.number("scale"))
                self.zero_point = quantization.integer("zero_point")
        if tensor is None:
            raise ValueError("a quantized value of the XNNPACK graph has no tensor")
        datatype = tensor.enum("datatype").removeprefix("xnn_datatype_")
        self.dtype = DTYPES.get(datatype, datatype)
        self.shape = tensor.integers("dims")
        self.constant = tensor.integer("constant_buffer_idx")
        self.id = tensor.integer("id_out")


class Graph:
    """The delegate's graph.

    Args:
        payload: What the `.pte` hands to the delegate.
        named_sizes: Bytes of each constant that the `.pte` keeps by name.

    Attributes:
        layers: Its operators in order, not yet named.
    """

    def __init__(self, payload: bytes, named_sizes: Mapping[str, int]) -> None:
        flatbuffer, constant_room = _split(payload)
        graph = Buffer(flatbuffer, _schema()).root("XNNGraph", IDENTIFIERS)
        self._values = {value.id: value for value in map(_Value, graph.tables("xvalues"))}
        self._constant_sizes = []
        for constant in graph.tables("constant_data"):
            name, size = constant.text("named_key"), constant.integer("size")
            if not name and size and constant.integer("offset") + size > constant_room:
                raise ValueError("a constant of the XNNPACK graph lies past the end of the delegate's data")
            self._constant_sizes.append(named_sizes[name] if name else size)
        self.layers = tuple(self._layer(node) for node in graph.tables("xnodes"))

    def _layer(self, node: Table) -> LayerInfo:
        member, table = node.union("xnode_union")
        name = member.removeprefix("XNN")
        operator = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        output_field = next(key for key in ("output_id", "output_value_id") if key in table.fields)
        output = self._values[table.integer(output_field)]
        data_field = next(key for key in ("input_id", "input1_id", "query_id") if key in table.fields)
        data = self._values[table.integer(data_field)]
        weight = self._values[table.integer("filter_id")] if "filter_id" in table.fields else None
        kind: LayerKind = "other" if weight is None else "linear" if "Fully" in name else "conv"
        # Dynamically quantized data is INT8 when it reaches the kernel, whose output is then float.
        on_integers = data.dtype in INTEGER_DTYPES and (weight is not None or output.dtype in INTEGER_DTYPES)
        bounds = node.table("output_min_max")
        return LayerInfo(
            name="",
            operator=operator,
            where="xnnpack",
            kind=kind,
            integer=on_integers and (weight is None or weight.dtype in INTEGER_DTYPES),
            weight_bytes=0 if weight is None else self._constant_sizes[weight.constant],
            weight_dtype=None if weight is None else weight.dtype,
            shape=output.shape,
            scale=output.scale,
            zero_point=output.zero_point,
            clamp=None
            if bounds is None
            else (float(bounds.number("output_min")), float(bounds.number("output_max"))),
        )


def _split(payload: bytes) -> tuple[bytes, int]:
    """Return the graph's flatbuffer and how many bytes of constants follow it."""
    if payload[4:8] != HEADER_MAGIC:
        return payload, 0
    start, size, constants_start = (
        int.from_bytes(payload[place : place + 4], "little") for place in (10, 14, 18)
    )
    constants_size = int.from_bytes(payload[22:30], "little")
    if max(start + size, constants_start + constants_size) > len(payload):
        raise ValueError("the XNNPACK delegate's data is cut short")
    return payload[start : start + size], constants_size
