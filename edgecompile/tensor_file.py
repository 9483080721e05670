"""Tensors and a text in one file, written tensor by tensor and read without a copy.

The layout is that of safetensors: eight bytes with the length of a JSON header, the header (dtype, shape and
place of each tensor, and `__metadata__`), then the tensors' bytes, little-endian. That package would copy all
tensors before it writes the first, and a model's weights may fill half of the memory.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64  # of each tensor, so that kernels may read it where it lies in the file
_LONGEST_HEADER = 1 << 30


class Writable(Protocol):
    """What the bytes are written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Take bytes."""


def can_hold(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether these tensors can be written: dense, and of a type that the format has."""
    return all(value.layout == torch.strided and value.dtype in _NAMES for value in tensors.values())


def write_tensors(file: Writable, tensors: Mapping[str, torch.Tensor], text: str = "") -> None:
    """Write tensors and a text; tensors that share their memory are written once."""
    header: dict[str, Any] = {"__metadata__": {"text": text}}
    places: dict[tuple[int, torch.Size, tuple[int, ...]], list[int]] = {}
    parts: list[torch.Tensor] = []
    end = 0
    for name, tensor in tensors.items():
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() == 0 or identity not in places:
            end += -end % _ALIGNMENT
            places[identity] = [end, end + tensor.nbytes]
            end += tensor.nbytes
            parts.append(tensor)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": places[identity],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % _ALIGNMENT)
    file.write(len(encoded).to_bytes(8, "little") + encoded)
    written = 0
    for tensor in parts:
        padding = -written % _ALIGNMENT
        file.write(bytes(padding))
        plain = tensor.detach().contiguous().reshape(-1)
        data: Any = plain.view(torch.uint8).numpy()
        file.write(memoryview(data) if plain.numel() else b"")
        written += padding + tensor.nbytes


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Return the tensors, which lie in the mapped file, and the text; equal places give one tensor.

    Raises:
        ValueError: The file has another form, or a place outside of it.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
        # A private mapping: nobody can change the file through a tensor.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    text = header.pop("__metadata__")["text"]
    seen: dict[tuple[str, int, int], torch.Tensor] = {}
    tensors = {}
    for name, entry in header.items():
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count = math.prod(shape)
        if start < 0 or end - start != count * dtype.itemsize or 8 + length + end > len(mapped):
            raise ValueError(f"the tensor {name!r} has no place in the file")
        place = (entry["dtype"], start, end) if count else (name, 0, 0)
        if place not in seen:
            seen[place] = (
                torch.frombuffer(mapped, dtype=dtype, count=count, offset=8 + length + start)
                if count
                else torch.empty(0, dtype=dtype)
            )
        tensors[name] = seen[place].reshape(shape)
    return tensors, text
