"""TorchScript Lite: runs `.ptl` artifacts in PyTorch's lite interpreter with QNNPACK kernels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.jit import mobile

from edgecompile.errors import EngineFailedError
from edgecompile.quantize.arithmetic import Arithmetic


@dataclass(frozen=True)
class TorchscriptLiteSession:
    """A loaded artifact."""

    module: Any

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs.

        Raises:
            EngineFailedError: The interpreter rejects the inputs, or an operator failed.
        """
        with qnnpack(), _failures("run"), torch.no_grad():
            outputs = self.module(*inputs)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


class TorchscriptLite:
    """The engine `torchscript-lite`: the lite interpreter with the kernels that mobile builds have."""

    name = "torchscript-lite"
    arithmetic: Arithmetic = "qnnpack"
    exact_kinds: frozenset[str] = frozenset({"conv1d", "conv2d", "linear"})

    @staticmethod
    def version() -> str:
        """Return the installed version of torch, without the build's own suffix."""
        return str(torch.__version__).partition("+")[0]

    @staticmethod
    def load(data: bytes, *, precise: bool) -> TorchscriptLiteSession:
        """Load an artifact; its weights are packed for QNNPACK here.

        Args:
            data: The artifact's bytes.
            precise: Changes nothing: QNNPACK's integer kernels are exact.

        Raises:
            EngineFailedError: The interpreter rejects the artifact.
        """
        with qnnpack(), _failures("load"):
            # Warns of the deprecated dtype once a process: here, where nobody sees it.
            torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)
            load: Any = mobile._load_for_lite_interpreter
            module = load(io.BytesIO(data))
        return TorchscriptLiteSession(module)

    @staticmethod
    def precise_form(data: bytes) -> bytes:
        """Return the artifact itself."""
        return data


@contextmanager
def qnnpack() -> Iterator[None]:
    """Select QNNPACK, whose integer arithmetic is exact, for packing weights and for running."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "qnnpack"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says at every step that quint8 tensors will go
            yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def _failures(action: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise EngineFailedError(
            f"TorchScript Lite could not {action} the artifact", found=lines[0] if lines else repr(error)
        ) from error
