"""ExecuTorch programs (`.pte`): a flatbuffer, then segments with constants and delegates' data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from edgecompile.readers.contents import ArtifactContents, LayerInfo, LayerKind, TensorInfo, damage_reported
from edgecompile.readers.flatbuffer import Buffer, Schema, Table, parse_schema
from edgecompile.readers.schema_files import schema_text
from edgecompile.readers.xnnpack import Graph

IDENTIFIER = b"ET12"
HEADER_MAGIC = b"eh00"
# They move data between memory formats or buffers, and compute nothing.
COPIES = frozenset(
    {
        "aten::alias_copy",
        "aten::clone",
        "aten::copy",
        "aten::copy_",
        "dim_order_ops::_clone_dim_order",
        "dim_order_ops::_empty_dim_order",
        "dim_order_ops::_to_dim_order_copy",
        "executorch_prim::et_view",
    }
)
SCALAR_TYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
}


@cache
def _schema() -> Schema:
    return parse_schema(
        schema_text("exir/_serialize/program.fbs"), schema_text("exir/_serialize/scalar_type.fbs")
    )


def read(data: bytes) -> ArtifactContents:
    """Read a `.pte`.

    Raises:
        UnreadableArtifactError: If it is damaged or not a `.pte`.
    """
    with damage_reported("pte"):
        return _Program(data).contents()


class _Program:
    """The file: its program and where its segments are."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        program_bytes, segment_base = len(data), len(data)
        if data[8:12] == HEADER_MAGIC:
            program_bytes, segment_base, segment_bytes = (
                int.from_bytes(data[place : place + 8], "little") for place in (16, 24, 32)
            )
            if max(program_bytes, segment_base + segment_bytes) > len(data):
                raise ValueError(f"it is cut short: {segment_base + segment_bytes} bytes were written")
        self.root = Buffer(data[:program_bytes], _schema()).root("Program", (IDENTIFIER,))
        self.segments: list[tuple[int, int]] = []  # start in the file, bytes
        for segment in self.root.tables("segments"):
            start, size = segment_base + segment.integer("offset"), segment.integer("size")
            if start + size > len(data):
                raise ValueError("a segment lies past the end of the file")
            self.segments.append((start, size))
        self.named_sizes = {
            named.text("key"): self.segments[named.integer("segment_index")][1]
            for named in self.root.tables("named_data")
        }

    def contents(self) -> ArtifactContents:
        plans = self.root.tables("execution_plan")
        if not plans:
            raise ValueError("the program has no method")
        delegates: Counter[str] = Counter()
        outside: Counter[str] = Counter()
        layers: list[LayerInfo] = []
        for plan in plans:
            self._walk(plan, delegates, outside, layers)
        return ArtifactContents(
            format="pte",
            engine="executorch",
            size_bytes=len(self.data),
            inputs=_tensors(plans[0], "inputs", "input"),
            outputs=_tensors(plans[0], "outputs", "output"),
            operators=dict(Counter(layer.operator for layer in layers)),
            delegates=dict(delegates),
            outside_delegate={name: count for name, count in outside.items() if name not in COPIES},
            copies={name: count for name, count in outside.items() if name in COPIES},
            layers=tuple(_numbered(layers)),
        )

    def _walk(
        self, plan: Table, delegates: Counter[str], outside: Counter[str], layers: list[LayerInfo]
    ) -> None:
        """Count one method's calls, in the order of execution."""
        names = [operator.text("name") for operator in plan.tables("operators")]
        table = [self._delegate(delegate) for delegate in plan.tables("delegates")]
        for chain in plan.tables("chains"):
            for instruction in chain.tables("instructions"):
                kind, call = instruction.union("instr_args")
                if kind == "DelegateCall":
                    delegate, nodes = table[call.integer("delegate_index")]
                    delegates[delegate] += 1
                    layers.extend(nodes)
                elif kind == "KernelCall":
                    name = names[call.integer("op_index")]
                    outside[name] += 1
                    layers.append(_kernel(name))

    def _delegate(self, delegate: Table) -> tuple[str, tuple[LayerInfo, ...]]:
        """Return a delegate's name and, if it is XNNPACK, its layers; other delegates' data is opaque."""
        name = delegate.text("id").removesuffix("Backend").lower()
        reference = delegate.table("processed")
        if name != "xnnpack" or reference is None:
            return name, ()
        index = reference.integer("index")
        if reference.enum("location") == "INLINE":
            payload = self.root.tables("backend_delegate_data")[index].data("data")
        else:
            start, size = self.segments[index]
            payload = self.data[start : start + size]
        return name, Graph(payload, self.named_sizes).layers


def _numbered(layers: list[LayerInfo]) -> Iterator[LayerInfo]:
    """Name the layers by operator and place, since the file keeps no names."""
    for place, layer in enumerate(layers):
        yield replace(layer, name=f"{layer.operator.rpartition('::')[2]}_{place}")


def _kernel(operator: str) -> LayerInfo:
    """Return a call outside every delegate; ExecuTorch's own conv and linear kernels are float ones."""
    short = operator.rpartition("::")[2]
    kind: LayerKind = "conv" if "convolution" in short or "conv2d" in short else "other"
    if short in {"linear", "addmm", "mm"}:
        kind = "linear"
    return LayerInfo(name="", operator=operator, where="portable", kind=kind, integer=False)


def _tensors(plan: Table, field: str, prefix: str) -> tuple[TensorInfo, ...]:
    values = plan.tables("values")
    found = []
    for place, index in enumerate(plan.integers(field)):
        kind, value = values[index].union("val")
        shape: tuple[int, ...] = value.integers("sizes") if kind == "Tensor" else ()
        scalar_type = value.enum("scalar_type") if kind == "Tensor" else kind
        dtype = SCALAR_TYPES.get(scalar_type, scalar_type.lower())
        found.append(TensorInfo(name=f"{prefix}_{place}", shape=shape, dtype=dtype))
    return tuple(found)
