"""Emits `.pte` for ExecuTorch, with everything that can be inside the XNNPACK delegate."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_map_only

from edgecompile.artifact import Emitted
from edgecompile.emitter import Foreseen
from edgecompile.emitters._deferred_code import deferred_code
from edgecompile.emitters._edge_dialect import edge_program
from edgecompile.emitters._edge_passes import only_useful_edge_passes
from edgecompile.emitters._executorch_kernels import refuse_missing_kernels
from edgecompile.emitters._fixed_signature import quick_partitioner
from edgecompile.emitters._known_versions import is_known
from edgecompile.emitters._light_import import import_executorch
from edgecompile.emitters._outside_delegate import (
    computing_calls,
    is_delegate_call,
    outside_rows,
    partitioner_reasons,
    schema_name,
)
from edgecompile.emitters._own_dequantize import with_own_dequantize
from edgecompile.emitters._xnnpack_forms import in_delegate_forms
from edgecompile.emitters._xnnpack_passes import only_useful_passes
from edgecompile.emitters._xnnpack_prelu import prelu_on_pictures
from edgecompile.emitters._xnnpack_weights import configs_with_float_activations, for_float_activations
from edgecompile.engine import captured_stderr
from edgecompile.engines.executorch import Executorch as Engine
from edgecompile.errors import LoweringFailedError
from edgecompile.graph_edit import no_host_kernels, shape_of, user_input_names
from edgecompile.program import Declined, QuantizedProgram

if TYPE_CHECKING:
    from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchProgramManager

    from edgecompile.target import EmitSettings


class Executorch:
    """The emitter of `.pte`."""

    format = "pte"
    engine = "executorch"
    suffix = ".pte"

    @staticmethod
    def emit(program: QuantizedProgram, settings: EmitSettings) -> Emitted:
        """Lower a program to the edge dialect, delegate to XNNPACK, and serialize.

        Raises:
            LoweringFailedError: ExecuTorch has no kernel for an operator, or its lowering fails.
        """
        with _lowering():
            edge, declined = _delegated_program(program, settings)
            graph_module = edge.exported_program().graph_module
            operators = _operators(graph_module)
            delegates = _delegates(graph_module)
            data = bytes(_lowered(edge, program).buffer)
        return Emitted(
            format=Executorch.format,
            engine=Executorch.engine,
            engine_version=Engine.version(),
            data=data,
            operators=dict(sorted(operators.items())),
            delegates=dict(sorted(delegates.items())),
            declined=declined,
        )

    @staticmethod
    def foresee(program: QuantizedProgram, settings: EmitSettings) -> Foreseen:
        """Return what `emit` would say: everything is the same, but the delegate compiles nothing.

        Raises:
            LoweringFailedError: ExecuTorch has no kernel for an operator, or its lowering fails.
        """
        with _lowering(), _delegate_that_compiles_nothing():
            edge, declined = _delegated_program(program, settings)
            delegates = _delegates(edge.exported_program().graph_module)
            _lowered(edge, program)
        return Foreseen(delegates=dict(sorted(delegates.items())), declined=declined)


@contextmanager
def _lowering() -> Iterator[None]:
    """Keep ExecuTorch quiet, and say what fails in it."""
    with captured_stderr(), warnings.catch_warnings(), no_host_kernels():
        warnings.simplefilter("ignore")
        import_executorch()
        try:
            yield
        except LoweringFailedError:
            raise
        except Exception as error:
            first = next((line for line in str(error).splitlines() if line.strip()), repr(error))
            raise LoweringFailedError(
                f"ExecuTorch cannot lower the program: {type(error).__name__}: {first}",
                hint="leave the format out with --format, or replace the operator in the model",
            ) from error


@contextmanager
def _delegate_that_compiles_nothing() -> Iterator[None]:
    """Let XNNPACK's part of the lowering, which takes most of its time, give an empty program."""
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
    from executorch.exir.backend.backend_details import PreprocessResult

    stock = XnnpackBackend.preprocess
    XnnpackBackend.preprocess = staticmethod(lambda *_: PreprocessResult(processed_bytes=b""))
    try:
        yield
    finally:
        XnnpackBackend.preprocess = staticmethod(stock)


def _delegated_program(
    program: QuantizedProgram, settings: EmitSettings
) -> tuple[EdgeProgramManager, tuple[Declined, ...]]:
    """Return the program with its delegate calls, and what is in float or outside these."""
    delegate = settings.delegate == "xnnpack"
    exported, in_float, rules = _prepared(program)
    with partitioner_reasons() as reasons:
        edge = _lower(exported, delegate=delegate, rules=rules)
    outside = outside_rows(edge.exported_program().graph_module, exported, reasons, delegate=delegate)
    return edge, (*in_float, *outside)


def _lowered(edge: EdgeProgramManager, program: QuantizedProgram) -> ExecutorchProgramManager:
    """Return what the artifact holds.

    Raises:
        LoweringFailedError: ExecuTorch has no kernel for an operator.
    """
    from executorch.exir import ExecutorchBackendConfig
    from executorch.exir.passes import MemoryPlanningPass

    graph_module = edge.exported_program().graph_module
    # Inputs are planned at their largest size; those of a large batch stay the caller's.
    planning = MemoryPlanningPass(alloc_graph_input=not _has_dynamic_input(program.exported))
    _keep_delegate_outputs(graph_module)
    with deferred_code():
        lowered = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    refuse_missing_kernels(lowered, graph_module)
    return lowered


def _prepared(program: QuantizedProgram) -> tuple[ExportedProgram, tuple[Declined, ...], list[Any] | None]:
    """Return what is lowered, what of it is stored in float, and the partitioner's rules if not the stock."""
    exported = with_own_dequantize(in_delegate_forms(prelu_on_pictures(program.exported)))
    if program.precision != "int8-weights":
        return exported, (), None
    exported, in_float = for_float_activations(exported)
    return exported, in_float, configs_with_float_activations()


def _lower(
    exported: ExportedProgram, *, delegate: bool, rules: list[Any] | None = None
) -> EdgeProgramManager:
    """Return the program in the edge dialect, with all that can be inside the delegate.

    The same as ExecuTorch's `to_edge_transform_and_lower`, which decomposes three times over: it asks
    anew for each operator whether the delegate wants it whole. Here all of a kind stay whole, and only
    where the delegate then leaves one out is the long way taken.
    """
    from executorch.exir import EdgeProgramManager, to_edge, to_edge_transform_and_lower
    from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge

    if not delegate:
        return to_edge(exported, compile_config=_config())
    partitioner = quick_partitioner(rules)
    whole, _ = partitioner.ops_to_not_decompose(exported)
    with only_useful_edge_passes(), only_useful_passes():
        known = is_known("executorch", "torch")
        translated = edge_program(exported, _config(whole)) if known else None
        if translated is not None:
            edge = EdgeProgramManager(translated, compile_config=_config(whole))
        else:
            edge = to_edge(exported, compile_config=_config(whole))
        with deferred_code():
            edge = edge.to_backend(partitioner)
        left_out = {node.target for node in computing_calls(edge.exported_program().graph_module)}
        if left_out.isdisjoint(aten_to_edge(operator) for operator in whole):
            return edge
        return to_edge_transform_and_lower(exported, partitioner=[partitioner], compile_config=_config())


def _config(whole: Sequence[torch._ops.OpOverload] = ()) -> EdgeCompileConfig:
    from executorch.exir import EdgeCompileConfig

    # The verifier rejects operators of the training dialect that the lowering itself decomposes later;
    # what cannot be lowered fails by name.
    return EdgeCompileConfig(_check_ir_validity=False, preserve_ops=list(whole))


def _has_dynamic_input(exported: ExportedProgram) -> bool:
    names = user_input_names(exported)
    nodes = (node for node in exported.graph.find_nodes(op="placeholder") if node.name in names)
    return any(isinstance(size, torch.SymInt) for node in nodes for size in shape_of(node))


def _delegated(graph_module: GraphModule) -> Iterator[tuple[str, GraphModule]]:
    for node in graph_module.graph.nodes:
        if is_delegate_call(node):
            lowered: Any = getattr(graph_module, str(node.args[0]))
            yield str(lowered.backend_id), lowered.original_module.graph_module


def _keep_delegate_outputs(graph_module: GraphModule) -> None:
    """Let delegates answer traces with the outputs that are known, rather than trace what is inside them."""
    if not is_known("executorch", "torch"):
        return
    for node in graph_module.graph.nodes:
        if is_delegate_call(node):
            lowered: Any = getattr(graph_module, str(node.args[0]))
            # As traced: without a gradient, even of trainable weights.
            outputs = tree_map_only(torch.Tensor, torch.Tensor.detach, tuple(node.meta["val"]))
            lowered.original_module.module = partial(_answer_with, outputs)


def _answer_with(outputs: Sequence[torch.Tensor]) -> Callable[..., Sequence[torch.Tensor]]:
    return lambda *_: outputs


def _delegates(graph_module: GraphModule) -> Counter[str]:
    return Counter(backend.removesuffix("Backend").lower() for backend, _ in _delegated(graph_module))


def _operators(graph_module: GraphModule) -> Counter[str]:
    inside = [inner for _, inner in _delegated(graph_module)]
    return Counter(
        schema_name(node) for module in (graph_module, *inside) for node in computing_calls(module)
    )
