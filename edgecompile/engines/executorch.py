"""ExecuTorch: runs `.pte` artifacts through its Python runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from edgecompile.engine import captured_stderr
from edgecompile.errors import EngineFailedError
from edgecompile.quantize.arithmetic import Arithmetic


@dataclass(frozen=True)
class ExecutorchSession:
    """A loaded artifact; the program is kept because its method does not keep it alive."""

    program: Any
    method: Any

    def run(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the outputs.

        Raises:
            EngineFailedError: The runtime rejects the inputs, or an instruction failed.
        """
        # The runtime takes the order of dimensions from the strides, and programs expect the default.
        plain = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs]
        try:
            with captured_stderr() as log:
                outputs = self.method.execute(plain)
        except RuntimeError as error:
            raise EngineFailedError(
                f"ExecuTorch could not run the artifact: {error}", log="\n".join(log[-3:])
            ) from error
        # Outputs lie in the method's own memory, which the next run overwrites.
        return tuple(output.clone() for output in outputs)


class Executorch:
    """The engine `executorch` on the CPU, with the XNNPACK delegate."""

    name = "executorch"
    arithmetic: Arithmetic = "xnnpack"
    exact_kinds: frozenset[str] = frozenset({"conv1d", "conv2d", "linear"})

    @staticmethod
    def version() -> str:
        """Return the installed version."""
        return version("executorch")

    @staticmethod
    def kernels() -> frozenset[str]:
        """Return the operators that it has kernels for, `aten::add.out`."""
        return frozenset(_runtime().operator_registry.operator_names)

    @staticmethod
    def load(data: bytes, *, precise: bool) -> ExecutorchSession:
        """Load an artifact's method `forward`.

        Args:
            data: The artifact's bytes.
            precise: Changes nothing: the integer kernels are exact.

        Raises:
            EngineFailedError: The runtime rejects the artifact.
        """
        try:
            with captured_stderr() as log:
                program = _runtime().load_program(data)
                method = program.load_method("forward")
        except RuntimeError as error:
            raise EngineFailedError(
                f"ExecuTorch could not load the artifact: {error}", log="\n".join(log[-3:])
            ) from error
        if method is None:
            raise EngineFailedError("the artifact has no method 'forward'")
        return ExecutorchSession(program, method)

    @staticmethod
    def precise_form(data: bytes) -> bytes:
        """Return the artifact itself."""
        return data


def _runtime() -> Any:
    """Return the runtime with all kernels that the native runner has too."""
    from executorch.runtime import Runtime

    runtime = Runtime.get()
    import executorch.kernels.quantized  # noqa: F401 (registers its kernels)

    return runtime
