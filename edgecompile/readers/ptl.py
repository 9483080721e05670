"""TorchScript Lite archives (`.ptl`): a zip of pickles, bytecode among them, and of tensor data."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections import Counter

from edgecompile.readers.bytecode import Attribute, Call, Function
from edgecompile.readers.contents import (
    ArtifactContents,
    LayerInfo,
    LayerKind,
    TensorInfo,
    damage_reported,
)
from edgecompile.readers.pickled import PERSISTENT, Global, Instance, expect, read_pickle

ENGINE = "torchscript-lite"
# What unpacks to more than this many times its file is no model: tensors do not compress like that.
LARGEST_EXPANSION = 20
REBUILD_QUANTIZED = "torch._utils._rebuild_qtensor"
REBUILD_TENSORS = frozenset({REBUILD_QUANTIZED, "torch._utils._rebuild_tensor_v2"})
STORAGES = {
    "QInt8Storage": ("int8", 1),
    "QUInt8Storage": ("uint8", 1),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "ShortStorage": ("int16", 2),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "IntStorage": ("int32", 4),
    "QInt32Storage": ("int32", 4),
    "FloatStorage": ("float32", 4),
    "LongStorage": ("int64", 8),
    "DoubleStorage": ("float64", 8),
}


class _Quantization:
    """What stands for a tensor that an operator returned: its scale and zero point, None in float."""

    def __init__(self, scale: float | None, zero_point: int | None) -> None:
        self.scale = scale
        self.zero_point = zero_point


def read(data: bytes) -> ArtifactContents:
    """Read a `.ptl`.

    Raises:
        UnreadableArtifactError: If it is damaged or not a `.ptl`.
    """
    with damage_reported("ptl"):
        return _Archive(data).contents()


class _Archive:
    """The zip, whose records lie under one folder of any name."""

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        entries = self._zip.infolist()
        if sum(entry.file_size for entry in entries) > LARGEST_EXPANSION * len(data):
            raise ValueError("the archive would unpack to far more than a model holds")
        damaged = self._zip.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        self._sizes = {entry.filename: entry.file_size for entry in entries}
        bytecode = next((name for name in self._sizes if name.endswith("/bytecode.pkl")), None)
        if bytecode is None:
            raise ValueError("the archive holds no bytecode: it was not saved for the lite interpreter")
        self._folder = bytecode.removesuffix("/bytecode.pkl")
        self._layers: list[LayerInfo] = []

    def contents(self) -> ArtifactContents:
        module = self._pickle("data")
        version, *entries = expect(self._pickle("bytecode"), tuple)
        if not isinstance(version, int) or not entries:
            raise ValueError("the bytecode holds no function")
        functions = [Function(entry, module) for entry in entries]
        for function in functions:
            function.follow(self._call)
        main = next((item for item in functions if item.name.endswith(".forward")), functions[0])
        return ArtifactContents(
            format="ptl",
            engine=ENGINE,
            size_bytes=self.size_bytes,
            inputs=_variables(main, "arguments", "input"),
            outputs=_variables(main, "returns", "output"),
            operators=dict(Counter(layer.operator for layer in self._layers)),
            layers=tuple(self._layers),
        )

    def _pickle(self, name: str) -> object:
        return read_pickle(self._zip.read(f"{self._folder}/{name}.pkl"))

    def _call(self, call: Call) -> object:
        """Record one call as a layer; return what stands for its result, of a dequantized weight itself."""
        namespace, _, short = call.operator.partition("::")
        arguments = call.arguments or ()
        weight = next((found for found in map(_weight, arguments) if found), None)
        kind = _kind(short, weight is not None)
        is_weight = short == "dequantize" and weight is not None
        weight = weight if kind != "other" else None
        scale, zero_point = _output_quantization(namespace, short, arguments)
        weight_dtype, weight_bytes = self._weight_size(weight) if weight else (None, 0)
        names = [value.name for value in arguments if isinstance(value, Attribute)]
        self._layers.append(
            LayerInfo(
                name=names[0] if weight and names else f"{short}_{len(self._layers)}",
                operator=call.operator,
                where=ENGINE,
                kind=kind,
                integer=namespace == "quantized" or (scale is not None and short != "quantize_per_tensor"),
                weight_bytes=weight_bytes,
                weight_dtype=weight_dtype,
                scale=scale,
                zero_point=zero_point,
            )
        )
        return arguments[0] if is_weight else _Quantization(scale, zero_point)

    def _weight_size(self, weight: Instance) -> tuple[str, int]:
        """Return a tensor's dtype and bytes, having checked that its record holds as many."""
        storage = expect(weight.arguments[0], Instance)
        _, storage_type, key, _, _ = expect(storage.arguments[0], tuple)
        dtype, item_bytes = STORAGES[expect(storage_type, Global).name.removeprefix("torch.")]
        sizes = [expect(size, int) for size in expect(weight.arguments[2], tuple)]
        size_bytes = item_bytes * math.prod(sizes)
        records = (f"{self._folder}/{place}/{key}" for place in ("data", "constants"))
        held = max(self._sizes.get(record, -1) for record in records)
        if min(sizes, default=1) < 0 or size_bytes > held:
            raise ValueError(f"the tensor {key} of {sizes} does not fit its record of {held} bytes")
        return dtype, size_bytes


def _kind(short: str, weighted: bool) -> LayerKind:
    if re.search(r"pack$|_size$|backward", short):
        return "other"
    if re.search(r"conv(\d|_|olution)", short):
        return "conv"
    if re.match(r"linear|addmm$", short) or (weighted and short in {"matmul", "mm"}):
        return "linear"
    return "other"


def _weight(argument: object) -> Instance | None:
    """Return the weight in an argument: a tensor of the file, or the first one of packed parameters."""
    value = argument.value if isinstance(argument, Attribute) else argument
    if not isinstance(value, Instance):
        return None
    if value.type_name in REBUILD_TENSORS:
        return value
    if not value.type_name.endswith("PackedParamsBase"):
        return None
    # conv: ("2", build_tensorlist([dimensions, weight]), [bias]); linear: (weight, bias)
    queue, seen = [value.state], 0
    while queue and seen < 50:
        item = queue.pop(0)
        seen += 1
        if isinstance(item, Instance) and item.type_name == REBUILD_QUANTIZED:
            return item
        if isinstance(item, Instance) and item.type_name not in {PERSISTENT, *REBUILD_TENSORS}:
            queue.extend(item.arguments[:8])
        elif isinstance(item, (tuple, list)):
            queue.extend(item[:8])
    return None


def _output_quantization(
    namespace: str, short: str, arguments: tuple[object, ...]
) -> tuple[float | None, int | None]:
    if short == "dequantize":
        return None, None
    numbers = arguments[1:3] if short == "quantize_per_tensor" else arguments[-2:]
    if (namespace == "quantized" or short == "quantize_per_tensor") and len(numbers) == 2:
        scale, zero_point = numbers
        if isinstance(scale, float) and isinstance(zero_point, int):
            return scale, zero_point
    # The others (mean, max_pool2d, flatten) keep the quantization of their input.
    given = next((value for value in arguments if isinstance(value, _Quantization)), None)
    return (given.scale, given.zero_point) if given else (None, None)


def _variables(function: Function, field: str, prefix: str) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=name or f"{prefix}_{place}", shape=None, dtype=type_name.lower())
        for place, (name, type_name) in enumerate(function.variables(field))
    )
