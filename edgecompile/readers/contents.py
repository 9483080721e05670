"""What a reader finds in an artifact, in the same words for every format."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from edgecompile.errors import UnreadableArtifactError

LayerKind = Literal["conv", "linear", "other"]

INTEGER_DTYPES = frozenset({"int8", "uint8", "int4"})

# Conv and linear kernels of ONNX Runtime, as they are called in its optimized graph.
EXECUTED_IN_INTEGER = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
EXECUTED_IN_FLOAT = frozenset(
    {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulNBits"}
)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output of the model.

    Attributes:
        name: Its name, or `input_0` where the format keeps none.
        shape: Sizes, a name for a dynamic one; None where the format keeps no shapes (`.ptl`).
        scale: With which the artifact quantizes or dequantizes it at its edge, where that is a node of
            its own (ONNX); None in float.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One operator of the artifact, in the order of execution.

    Attributes:
        where: What computes it: a delegate ("xnnpack"), "portable" (a kernel of ExecuTorch outside every
            delegate), or the engine's name where it has no delegates.
        integer: It computes on INT8 data (and, in a conv or linear, with INT8 weights).
        weight_bytes: Size of its weights without the bias; 0 if it has none.
        weight_dtype: None without weights.
        shape: Of its output, None if the artifact does not say.
        scale: Of its output if that is quantized per tensor.
        clamp: Lower and upper bound of the activation that is fused into the kernel.
    """

    name: str
    operator: str
    where: str
    kind: LayerKind
    integer: bool
    weight_bytes: int = 0
    weight_dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    scale: float | None = None
    zero_point: int | None = None
    clamp: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ArtifactContents:
    """An artifact as its own bytes describe it.

    Attributes:
        operators: Every operator that it executes, by name, with the number of calls in the file.
        delegates: Calls into each delegate, by the delegate's name.
        outside_delegate: Operators that compute outside every delegate; empty where the engine has none.
        copies: Operators outside every delegate that only copy or reorder data, counted apart.
        optimized_operators: Operators after the engine's own optimization (ONNX Runtime), if it was asked.
    """

    format: str
    engine: str
    size_bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: dict[str, int]
    delegates: dict[str, int] = field(default_factory=dict)
    outside_delegate: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    layers: tuple[LayerInfo, ...]
    optimized_operators: dict[str, int] | None = None

    @property
    def integer_layers(self) -> int:
        """How many conv and linear layers compute in INT8."""
        return sum(layer.integer for layer in self.layers if layer.kind != "other")

    @property
    def float_layers(self) -> int:
        """How many conv and linear layers compute in float."""
        return sum(not layer.integer for layer in self.layers if layer.kind != "other")

    @property
    def executed_integer_layers(self) -> int | None:
        """How many conv and linear kernels the engine's optimized graph runs in INT8; None if not asked.

        A graph that says INT8 is a wish: the engine may still find a reason not to fuse.
        """
        return _count_in(self.optimized_operators, EXECUTED_IN_INTEGER)

    @property
    def executed_float_layers(self) -> int | None:
        """How many it runs in float (with products of two activations, which look the same)."""
        return _count_in(self.optimized_operators, EXECUTED_IN_FLOAT)

    @property
    def weight_bytes(self) -> int:
        """Size of all weights that belong to a layer, biases apart."""
        return sum(layer.weight_bytes for layer in self.layers)


def _count_in(counts: dict[str, int] | None, names: frozenset[str]) -> int | None:
    return None if counts is None else sum(count for name, count in counts.items() if name in names)


@contextmanager
def damage_reported(artifact_format: str) -> Iterator[None]:
    """Turn what damaged bytes make a reader raise into one error for the user.

    Raises:
        UnreadableArtifactError: If the body raised anything that damage explains.
    """
    try:
        yield
    except (
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        EOFError,
        NotImplementedError,
        RuntimeError,  # zipfile: an encrypted entry; also RecursionError
        MemoryError,
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        first_line = (str(error).splitlines() or [""])[0][:300]
        # The readers' own checks raise plain ValueErrors that say it all; of others the class says most.
        found = first_line if type(error) is ValueError else f"{type(error).__name__}: {first_line}"
        raise UnreadableArtifactError(
            f"this is not a readable .{artifact_format} file: it is damaged, or of another version",
            found=found,
            hint="build or copy it again; a bundle's manifest.json has its SHA-256",
        ) from error
