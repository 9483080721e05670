"""MODEL to a captured program: load what the user names, and trace it with `torch.export`."""

from __future__ import annotations

import linecache
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from edgecompile.captured_sizes import refused_sizes, require_every_step
from edgecompile.dynamic_size import BATCH, WantedSize
from edgecompile.errors import (
    CaptureFailedError,
    EdgecompileError,
    ModelFunctionFailedError,
    ModelInputsMismatchError,
    NotAModuleError,
)
from edgecompile.flat_signature import flatten_signature
from edgecompile.functionalize import remove_in_place_writes
from edgecompile.graph_edit import source_line
from edgecompile.inline_contexts import inline_contexts
from edgecompile.model_inputs import (
    batched,
    copied_inputs,
    described_inputs,
    example_inputs,
    in_order,
    register_results,
    with_dynamic_sizes,
)
from edgecompile.program import CapturedProgram, SourceModel, StepRecord
from edgecompile.saved_program import load_saved_program
from edgecompile.symbolic_sizes import name_sizes, plain_symbols
from edgecompile.user_code import first_line, load_function, split_spec

_RESULTS = (OutputKind.USER_OUTPUT, OutputKind.LOSS_OUTPUT)


def load_model(spec: str) -> SourceModel:
    """Load MODEL: `file.py:function`, `package.module:function` or `file.pt2`.

    Raises:
        EdgecompileError: One class a case: the spec, the file, the function, what it returned.
    """
    if spec.endswith(".pt2"):
        return load_saved_program(Path(spec))
    function = load_function(spec)
    try:
        returned = function()
    except EdgecompileError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelFunctionFailedError(
            f"the model function {spec!r} raised {type(error).__name__}: {error}",
            where=user_line(error.__traceback__),
            hint="call the function in Python first; it must return the model without arguments",
        ) from error
    module, inputs = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if not isinstance(module, torch.nn.Module):
        raise NotAModuleError(
            f"the model function {spec!r} returned {type(module).__name__}",
            expected="an nn.Module, or a tuple (nn.Module, example inputs)",
        )
    name = split_spec(spec)[0].rpartition("/")[2].removesuffix(".py").rpartition(".")[2]
    arguments, keywords = example_inputs(spec, inputs)
    return SourceModel(
        name=name,
        module=module.eval(),
        exported=None,
        example_inputs=arguments,
        example_keywords=in_order(module, keywords),
    )


def capture(
    source: SourceModel, *, dynamic_batch: bool, dynamic: Sequence[WantedSize] = ()
) -> CapturedProgram:
    """Trace a model into one ATen graph in inference mode.

    Args:
        source: The model and its example inputs, each with the batch as its first axis.
        dynamic_batch: Let the first axis of every input vary from 1 to `MAX_BATCH`.
        dynamic: Other sizes of inputs that may vary.

    Raises:
        ModelInputsMismatchError: The model itself does not accept its example inputs.
        InvalidDynamicSizeError: A size is of no axis of the inputs, or the examples contradict it.
        CaptureFailedError: `torch.export` cannot trace the model, or its graph is not a pure function of
            tensors.
    """
    started = time.perf_counter()
    wanted = (*batched(source, dynamic), *dynamic) if dynamic_batch else tuple(dynamic)
    exported = source.exported if source.module is None else _export(source, source.module, wanted)
    assert exported is not None
    exported = inline_contexts(exported)
    returned = _require_plain_signature(exported)
    if source.module is None:
        _require_captured_sizes(exported, wanted, dynamic_batch=dynamic_batch)
    nodes = len(exported.graph.nodes)
    functional, rewrites = remove_in_place_writes(exported)
    functional = flatten_signature(functional, returned)
    name_sizes(functional, _names_by_input(wanted))
    step = StepRecord(
        name="capture",
        seconds=time.perf_counter() - started,
        nodes_before=nodes,
        nodes_after=len(functional.graph.nodes),
        rewrites=rewrites,
    )
    return CapturedProgram(name=source.name, exported=functional, steps=(step,))


def user_line(trace: TracebackType | None) -> str:
    """Return the deepest line of a traceback that is the user's own, with its source text."""
    frames = [
        frame
        for frame in traceback.extract_tb(trace)
        if "site-packages" not in frame.filename and not frame.filename.startswith("<")
    ]
    own = str(Path(__file__).parent)
    frames = [frame for frame in frames if not frame.filename.startswith(own)]
    if not frames:
        return ""
    frame = frames[-1]
    code = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {code}"


def _export(source: SourceModel, module: torch.nn.Module, wanted: Sequence[WantedSize]) -> ExportedProgram:
    # Copies: one tensor given twice would be captured as one input, and a model may write to its inputs.
    inputs, keywords = copied_inputs(source.example_inputs, source.example_keywords)
    try:
        with torch.no_grad():
            arguments, named = copied_inputs(inputs, keywords)
            register_results(module(*arguments, **named))
    except (Exception, SystemExit) as error:
        raise ModelInputsMismatchError(
            f"the model raised {type(error).__name__} on its example inputs: {first_line(error)}",
            where=user_line(error.__traceback__),
            found=described_inputs(inputs, keywords),
            hint="return example inputs that `model(*inputs)` accepts, or `model(**inputs)` for a dictionary",
        ) from error
    inputs, keywords, dynamic_shapes = with_dynamic_sizes(module, inputs, keywords, wanted)
    try:
        with torch.no_grad():
            exported = torch.export.export(module, inputs, keywords, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        raise CaptureFailedError(
            f"the model cannot be captured as one graph: {type(error).__name__}: {first_line(error)}",
            where=user_line(error.__traceback__),
            **_capture_hint(error, wanted),
        ) from error
    require_every_step(exported, wanted)
    return exported


def _capture_hint(error: Exception, wanted: Sequence[WantedSize]) -> dict[str, str]:
    text = f"{type(error).__name__} {error}"
    if "DataDependent" in text or "data-dependent" in text:
        return {
            "hint": "the graph must not depend on values: replace `if`/`while`/`.item()`/`nonzero()` on "
            "tensors by `torch.where` or masks"
        }
    if wanted and ("specialized" in text or "Constraints violated" in text):
        return refused_sizes(text, wanted)
    return {
        "hint": "rewrite this line with tensor operations only; `torch.export.export(model, inputs)` shows "
        "the whole message"
    }


def _names_by_input(wanted: Sequence[WantedSize]) -> dict[str, dict[int, str]]:
    names: dict[str, dict[int, str]] = {}
    for size in wanted:
        names.setdefault(size.input, {})[size.axis] = size.name
    return names


def _require_captured_sizes(
    exported: ExportedProgram, wanted: Sequence[WantedSize], *, dynamic_batch: bool
) -> None:
    """Refuse a `.pt2` that was captured with other dynamic sizes: what is traced cannot be made dynamic."""
    if not plain_symbols(exported):
        raise CaptureFailedError(
            "a dynamic size of an input is an expression of another one",
            hint="capture it with a `torch.export.Dim` of its own, or a multiple of one, for each size",
        )
    others = [size for size in wanted if size.name != BATCH]
    if others:
        raise CaptureFailedError(
            "a program that was captured already has the dynamic sizes of its own capture",
            found=f"--dynamic {others[0].input}:{others[0].axis}={others[0].name}",
            hint="give torch.export.export these `dynamic_shapes`: they are kept; and leave --dynamic out",
        )
    if not dynamic_batch:
        return
    for node in exported.graph.find_nodes(op="placeholder"):
        shape = node.meta["val"].shape
        if node.name not in exported.graph_signature.user_inputs or not shape:
            continue
        if not isinstance(shape[0], torch.SymInt):
            raise CaptureFailedError(
                f"the input {node.name!r} was captured with a fixed batch of {shape[0]}",
                hint="capture it with dynamic_shapes for axis 0, or leave --dynamic-batch out",
            )


def _require_plain_signature(exported: ExportedProgram) -> list[bool]:
    """Check that a program takes and gives tensors; return which of the results is one, and not None."""
    signature = exported.graph_signature
    for node in exported.graph.nodes:
        _require_plain_operator(node)
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    for spec in signature.input_specs:
        value = placeholders[spec.arg.name].meta.get("val")
        if spec.kind in (InputKind.TOKEN, InputKind.CUSTOM_OBJ) or not isinstance(value, torch.Tensor):
            raise CaptureFailedError(
                f"the input {spec.arg.name!r} of the graph is no tensor",
                hint="make it a constant of the module, or a tensor",
            )
    outputs = exported.graph.output_node().args[0]
    assert isinstance(outputs, tuple | list)
    specs = zip(outputs, signature.output_specs, strict=True)
    results = [node for node, spec in specs if spec.kind in _RESULTS]
    for index, node in enumerate(results):
        is_tensor = isinstance(node, torch.fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)
        if node is not None and not is_tensor:
            raise CaptureFailedError(
                f"output {index} of the model is no tensor: {node!r}",
                hint="return tensors only, or None for what there is not",
            )
    if not any(node is not None for node in results):
        raise CaptureFailedError("the model returns nothing", hint="return at least one tensor")
    return [node is not None for node in results]


def _require_plain_operator(node: torch.fx.Node) -> None:
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise CaptureFailedError(
            f"the graph holds a part with rules of its own: {node.target} (of torch.cond, autocast, "
            "enable_grad, checkpoint, ...)",
            where=source_line(node),
            hint="write the computation out with tensor operations: `torch.where` for a choice",
        )
    if node.target in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
        raise CaptureFailedError(
            "the model takes a number out of a tensor (`.item()`, `int(tensor)`)",
            where=source_line(node),
            hint="compute with the tensor itself, which needs no `.item()`",
        )
