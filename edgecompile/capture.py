"""MODEL to a captured program: load what the user names, and trace it with `torch.export`."""

from __future__ import annotations

import io
import json
import linecache
import re
import time
import traceback
import zipfile
from pathlib import Path
from types import TracebackType

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind

from edgecompile.errors import (
    CaptureFailedError,
    EdgecompileError,
    InvalidModelSpecError,
    MissingExampleInputsError,
    ModelFunctionFailedError,
    ModelInputsMismatchError,
    ModelNotFoundError,
    NotAModuleError,
    UnreadableModelFileError,
)
from edgecompile.functionalize import remove_in_place_writes
from edgecompile.graph_edit import source_line
from edgecompile.inline_contexts import inline_contexts
from edgecompile.program import CapturedProgram, SourceModel, StepRecord
from edgecompile.user_code import load_function, split_spec

# The largest batch that a program with a dynamic batch dimension accepts.
MAX_BATCH = 1024


def load_model(spec: str) -> SourceModel:
    """Load MODEL: `file.py:function`, `package.module:function` or `file.pt2`.

    Raises:
        EdgecompileError: One class a case: the spec, the file, the function, what it returned.
    """
    if spec.endswith(".pt2"):
        return _load_pt2(Path(spec))
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
    return SourceModel(
        name=name, module=module.eval(), exported=None, example_inputs=_example_inputs(spec, inputs)
    )


def capture(source: SourceModel, *, dynamic_batch: bool) -> CapturedProgram:
    """Trace a model into one ATen graph in inference mode.

    Args:
        source: The model and its example inputs, each with the batch as its first axis.
        dynamic_batch: Let the first axis of every input vary from 1 to `MAX_BATCH`.

    Raises:
        ModelInputsMismatchError: The model itself does not accept its example inputs.
        CaptureFailedError: `torch.export` cannot trace the model, or its graph is not a pure function of
            tensors.
    """
    started = time.perf_counter()
    exported = source.exported if source.module is None else _export(source, source.module, dynamic_batch)
    assert exported is not None
    exported = inline_contexts(exported)
    _require_plain_signature(exported)
    if dynamic_batch and source.module is None:
        _require_dynamic_batch(exported)
    nodes = len(exported.graph.nodes)
    functional, rewrites = remove_in_place_writes(exported)
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


def _example_inputs(spec: str, inputs: object) -> tuple[torch.Tensor, ...]:
    if inputs is None:
        raise MissingExampleInputsError(
            f"the model function {spec!r} returned no example inputs",
            expected="a tuple (nn.Module, example inputs)",
            hint="return e.g. `model, (torch.rand(1, 3, 224, 224),)`",
        )
    listed = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    if not isinstance(listed, tuple | list) or not all(isinstance(item, torch.Tensor) for item in listed):
        raise NotAModuleError(
            f"the model function {spec!r} returned example inputs of type {type(inputs).__name__}",
            expected="a tensor, or a tuple of tensors",
        )
    # A channels-last example would be captured with its strides, which no engine's input has.
    return tuple(item.detach().contiguous() for item in listed)


def _export(source: SourceModel, module: torch.nn.Module, dynamic_batch: bool) -> ExportedProgram:
    # Copies: one tensor given twice would be captured as one input, and a model may write to its inputs.
    inputs = tuple(tensor.detach().clone() for tensor in source.example_inputs)
    try:
        with torch.no_grad():
            module(*(tensor.clone() for tensor in inputs))
    except (Exception, SystemExit) as error:
        raise ModelInputsMismatchError(
            f"the model raised {type(error).__name__} on its example inputs: {first_line(error)}",
            where=user_line(error.__traceback__),
            found=", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in inputs),
            hint="return example inputs that `model(*inputs)` accepts",
        ) from error
    dynamic_shapes: ShapesCollection | None = None
    if dynamic_batch:
        # torch.export takes a batch of 1 for a constant, so it is shown two samples.
        inputs = tuple(torch.cat([item, item]) if item.shape[:1] == (1,) else item for item in inputs)
        batch = Dim("batch", min=1, max=MAX_BATCH)
        dynamic_shapes = ShapesCollection()  # type: ignore[no-untyped-call]
        for tensor in inputs:
            if tensor.dim() > 0:
                dynamic_shapes[tensor] = {0: batch}
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=dynamic_shapes)  # type: ignore[arg-type]
    except Exception as error:
        raise CaptureFailedError(
            f"the model cannot be captured as one graph: {type(error).__name__}: {first_line(error)}",
            where=user_line(error.__traceback__),
            hint=_capture_hint(error, dynamic_batch),
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _capture_hint(error: Exception, dynamic_batch: bool) -> str:
    text = f"{type(error).__name__} {error}"
    if "DataDependent" in text or "data-dependent" in text:
        return (
            "the graph must not depend on values: replace `if`/`while`/`.item()`/`nonzero()` on tensors by "
            "`torch.where` or masks"
        )
    if dynamic_batch and ("specialized" in text or "Constraints violated" in text):
        return "the model fixes its batch size (a reshape with a number?); leave --dynamic-batch out"
    return (
        "rewrite this line with tensor operations only; `torch.export.export(model, inputs)` shows the whole "
        "message"
    )


def _require_dynamic_batch(exported: ExportedProgram) -> None:
    """Refuse a `.pt2` that was captured with a fixed batch: what is traced cannot be made dynamic."""
    for node in exported.graph.find_nodes(op="placeholder"):
        shape = node.meta["val"].shape
        if node.name not in exported.graph_signature.user_inputs or not shape:
            continue
        if not isinstance(shape[0], torch.SymInt):
            raise CaptureFailedError(
                f"the input {node.name!r} was captured with a fixed batch of {shape[0]}",
                hint="capture it with dynamic_shapes for axis 0, or leave --dynamic-batch out",
            )


def _require_plain_signature(exported: ExportedProgram) -> None:
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
    for index, node in enumerate(outputs):
        if not isinstance(node, torch.fx.Node) or not isinstance(node.meta.get("val"), torch.Tensor):
            raise CaptureFailedError(
                f"output {index} of the model is no tensor: {node!r}", hint="return tensors only"
            )


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


# --- .pt2 -----------------------------------------------------------------------------------------

_SAVE_AGAIN = f"save it again with torch.export.save of torch {torch.__version__}"
# What torch.export.save writes; all else (compiled libraries, pickles, older forms) is refused unread.
_MEMBER = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/[a-z_]+|\.format_version|"
    r"\.storage_alignment|models/model\.json|extra/[^/]+|data/sample_inputs/model\.pt|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json))"
)
# What sizes are made of: they are handed to a parser that evaluates them, calls of builtins included.
_SIZE_EXPRESSION = re.compile(r"[A-Za-z0-9_ +\-*/(),<>=!]*")
_QUOTED_SYMBOL = re.compile(r"Symbol\('([suz][a-z]?\d+)'")
_SIZE_WORD = re.compile(
    r"Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|RoundToInt|"
    r"IntTrueDiv|FloatTrueDiv|ToFloat|PowByNatural|Identity|Symbol|Add|Mul|Pow|Integer|Rational|"
    r"Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|Lt|Le|Gt|Ge|And|Or|"
    r"Not|positive|nonnegative|negative|integer|real|finite|int_oo|True|False|[suz][a-z]?\d+"
)


def _load_pt2(path: Path) -> SourceModel:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {str(path)!r}", hint="save it with torch.export.save")
    try:
        _refuse_code(path)
        exported = torch.export.load(path)
    except EdgecompileError:
        raise
    except Exception as error:
        raise UnreadableModelFileError(
            f"{str(path)!r} cannot be read as a program of torch.export: {first_line(error)}",
            hint=_SAVE_AGAIN,
        ) from error
    inputs = exported.example_inputs
    if inputs is not None and inputs[1]:
        raise InvalidModelSpecError(
            f"{str(path)!r} was captured with keyword inputs", hint="capture it with positional inputs"
        )
    tensors = tuple(inputs[0]) if inputs is not None else tuple(_zeros_like_inputs(exported))
    return SourceModel(name=path.stem, module=None, exported=exported, example_inputs=tensors)


def _zeros_like_inputs(exported: ExportedProgram) -> list[torch.Tensor]:
    placeholders = {node.name: node.meta["val"] for node in exported.graph.find_nodes(op="placeholder")}
    values = [placeholders[str(name)] for name in exported.graph_signature.user_inputs]
    sizes = [[1 if isinstance(size, torch.SymInt) else size for size in value.shape] for value in values]
    return [torch.zeros(size, dtype=value.dtype) for size, value in zip(sizes, values, strict=True)]


def _refuse_code(path: Path) -> None:
    """Refuse an archive that would run code of its own when it is loaded (pickles, evaluated sizes)."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        # Readers differ in which of two equal names they take, and in whether case matters.
        if len({name.lower() for name in names}) != len(names):
            raise UnreadableModelFileError(f"{str(path)!r} holds a name twice")
        for name in names:
            if not _MEMBER.fullmatch(name):
                raise UnreadableModelFileError(
                    f"{str(path)!r} holds what torch.export.save does not write, which could run code",
                    where=name,
                    hint=_SAVE_AGAIN,
                )
            if "/data/sample_inputs/" in name:
                data = archive.read(name)
                if data:  # a program may be saved without example inputs
                    torch.load(io.BytesIO(data), weights_only=True)
            elif name.endswith("_config.json"):
                config = json.loads(archive.read(name)).get("config", {})
                if any(entry.get("use_pickle") for entry in config.values()):
                    raise UnreadableModelFileError(
                        f"{str(path)!r} holds pickled objects, which could run code", where=name
                    )
            elif "/models/" in name and name.endswith(".json"):
                _refuse_expressions(path, json.loads(archive.read(name)))


def _is_size(text: object) -> bool:
    if not isinstance(text, str):
        return False
    text = _QUOTED_SYMBOL.sub(r"Symbol(\1", text)
    if not _SIZE_EXPRESSION.fullmatch(text):
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    return all(_SIZE_WORD.fullmatch(word) for word in words)


def _refuse_expressions(path: Path, value: object) -> None:
    if isinstance(value, dict):
        text = value.get("expr_str")
        if text is not None and not _is_size(text):
            raise UnreadableModelFileError(f"{str(path)!r} holds a size that is no expression: {text!r:.80}")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_expressions(path, item)
