"""Emits ONNX in QDQ form, for ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import onnxsim
import torch
from onnx_ir.passes.common import OutputFixPass, TopologicalSortPass

from edgecompile.artifact import Emitted
from edgecompile.emitters._onnx_in_float import left_in_float
from edgecompile.emitters._onnx_qdq import prepare_for_fusion
from edgecompile.emitters._onnx_quick_export import quick_export
from edgecompile.emitters._onnx_weights import lower_weights
from edgecompile.engines.onnxruntime import Onnxruntime
from edgecompile.errors import LoweringFailedError
from edgecompile.graph_edit import ProgramEditor, source_line
from edgecompile.program import QuantizedProgram
from edgecompile.quantize.dynamic_layers import with_float_activations
from edgecompile.recurrence import MOST_STEPS, is_projected, unrolled
from edgecompile.signature import inputs_of, outputs_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from edgecompile.target import EmitSettings

aten = torch.ops.aten


class Onnx:
    """The emitter of `.onnx`."""

    format = "onnx"
    engine = "onnxruntime"
    suffix = ".onnx"

    @staticmethod
    def emit(program: QuantizedProgram, settings: EmitSettings) -> Emitted:
        """Lower a program; input names are kept, outputs are `output` or `output_0`, `output_1`, ...

        Raises:
            LoweringFailedError: An operator has no ONNX form, or the result is not valid ONNX.
        """
        is_dynamic = program.precision == "int8-dynamic"
        lowered = with_float_activations(program.exported) if is_dynamic else program.exported
        exported = _export(_without_projections(lowered), settings.opset)
        model = ir.from_proto(_simplify(exported))
        _name_nodes(model.graph)
        if program.precision not in ("int8", "fp32"):
            lower_weights(model, program.precision, settings.weight_dtype)
        prepare_for_fusion(model, settings.weight_dtype)
        OutputFixPass()(model)
        TopologicalSortPass()(model)
        _name_signature(model.graph, program)
        _strip(model)
        data = _checked_bytes(ir.to_proto(model))
        operators = Counter(node.op_type for node in model.graph)
        return Emitted(
            format=Onnx.format,
            engine=Onnx.engine,
            engine_version=Onnxruntime.version(),
            data=data,
            operators=dict(sorted(operators.items())),
            delegates={},
            declined=left_in_float(data, program) if program.precision == "int8" else (),
        )

    @staticmethod
    def foresee(program: QuantizedProgram, settings: EmitSettings) -> None:
        """Return None: ONNX Runtime itself decides what it fuses, and wants the artifact for that."""


def _without_projections(exported: ExportedProgram) -> ExportedProgram:
    """Return the program with projected LSTMs step by step: torch.onnx drops the projection."""
    editor = ProgramEditor(exported)
    for node in editor.calls(aten.lstm.input):
        if not is_projected(node):
            continue
        unrolled(editor, node)
        if node.users:
            raise LoweringFailedError(
                "ONNX has no LSTM whose state is projected (proj_size)",
                where=source_line(node),
                hint=f"fix its sizes, to {MOST_STEPS} steps at most, or build without the format onnx.",
            )
        editor.graph.erase_node(node)
    return editor.finish() if editor.rewrites else exported


def _export(exported: ExportedProgram, opset: int) -> onnx.ModelProto:
    try:
        with _quiet(), quick_export():
            program = torch.onnx.export(exported, dynamo=True, opset_version=opset, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise _lowering_failure(error) from error
    if program is None:
        raise LoweringFailedError("torch.onnx.export returned no model")
    written = program.model.graph.opset_imports[""]
    if written != opset:  # the exporter only warns
        raise LoweringFailedError(
            f"torch.onnx.export cannot write opset {opset}",
            found=f"opset {written}",
            hint="set another opset.",
        )
    return program.model_proto


def _lowering_failure(error: BaseException) -> LoweringFailedError:
    """Say in two lines what the exporter's chain of exceptions says in two hundred."""
    cause = error
    text = str(error)
    while cause.__cause__ is not None:
        cause = cause.__cause__
        text += f"\n{cause}"
    found = re.search(r"translating node %(\w+).*?target=torch\.ops\.([\w.]+)", text)
    return LoweringFailedError(
        f"{found[2] if found else 'the program'} has no ONNX form",
        where=f"node {found[1]!r}" if found else None,
        found=str(cause).splitlines()[0],
        hint="replace the operator in the model, or build without the format onnx.",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's prints, warnings and logs away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    with _quiet():
        simplified: onnx.ModelProto = onnxsim.simplify(model)[0]
    return simplified


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes like their outputs, which have the names of the program's nodes."""
    for node in graph:
        node.name = node.outputs[0].name


def _name_signature(graph: ir.Graph, program: QuantizedProgram) -> None:
    """Give inputs, outputs and dynamic dimensions the names that a user knows."""
    graph.name = program.name
    entries = (*inputs_of(program.exported), *outputs_of(program.exported))
    for value, entry in zip((*graph.inputs, *graph.outputs), entries, strict=True):
        sizes = {size.axis: size.name for size in entry.dynamic}
        value.name = entry.name
        value.shape = ir.Shape(sizes.get(axis, size) for axis, size in enumerate(entry.shape))


def _strip(model: ir.Model) -> None:
    """Remove what no engine reads: traces, tool versions, intermediate shapes."""
    model.producer_name, model.producer_version = "edgecompile", None
    model.domain, model.model_version, model.doc_string = None, None, None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape, value.type = None, None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def _checked_bytes(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise LoweringFailedError("the exported ONNX model is not valid", found=first_line) from error
    return data
