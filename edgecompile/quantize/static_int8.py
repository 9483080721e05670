"""Static INT8 quantization: calibrate, convert, and put the biases on the integer grid."""

from __future__ import annotations

import time
import warnings

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgecompile.dataset import Dataset
from edgecompile.graph_edit import ProgramEditor, operator_name, source_line
from edgecompile.lift import lift
from edgecompile.program import CapturedProgram, Declined, QuantizedProgram, StepRecord
from edgecompile.progress import Progress
from edgecompile.quantize.annotate import EdgeQuantizer
from edgecompile.quantize.layers import DEQUANTIZE, DEQUANTIZE_PER_CHANNEL, QUANTIZE, quantized_layers
from edgecompile.target import QuantizationSettings


def keep_float(program: CapturedProgram) -> QuantizedProgram:
    """Return the program as it is, for `--precision fp32`."""
    return QuantizedProgram(
        name=program.name,
        precision="fp32",
        exported=program.exported,
        float_exported=program.exported,
        unquantized=(),
        steps=program.steps,
    )


def quantize(
    program: CapturedProgram, data: Dataset, settings: QuantizationSettings, progress: Progress
) -> QuantizedProgram:
    """Quantize a program with static ranges, calibrated on the user's samples.

    Weights are symmetric int8, per output channel; activations affine int8, per tensor. Jacob et al.
    2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """
    started = time.perf_counter()
    samples = [sample.inputs for sample in data.samples[: settings.calibration_samples]]
    quantizer = EdgeQuantizer(settings)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao warns of its own deprecations
        model = program.exported.module(check_guards=False)
        names = [node.name for node in _computing(model.graph)]
        prepared = prepare_pt2e(model, quantizer)
        progress.start("calibrate", len(samples))
        for inputs in samples:
            prepared(*inputs)
            progress.advance()
        progress.finish(f"{len(samples)} samples")
        converted = convert_pt2e(prepared)
        exported = lift(converted, program.exported)
    exported = snap_biases(exported)
    step = StepRecord(
        name="quantize",
        seconds=time.perf_counter() - started,
        nodes_before=len(program.exported.graph.nodes),
        nodes_after=len(exported.graph.nodes),
        rewrites=len(quantized_layers(exported)),
    )
    return QuantizedProgram(
        name=program.name,
        precision="int8",
        exported=exported,
        float_exported=program.exported,
        unquantized=tuple(_in_float(exported, names, quantizer.declined)),
        steps=(*program.steps, step),
    )


def snap_biases(exported: ExportedProgram) -> ExportedProgram:
    """Round every quantized layer's bias to a multiple of `input scale * weight scale`.

    Every engine holds biases as int32 with that scale, and each rounds in its own way; on the grid there
    is nothing left to round, so all engines add the same integer.
    """
    editor = ProgramEditor(exported)
    nodes = {node.name: node for node in editor.graph.nodes}
    for layer in quantized_layers(exported):
        if layer.weights is None or layer.weights.bias is None:
            continue
        scale = layer.weights.scales * layer.input_parameters[0].scale  # (K,)
        snapped = torch.round(layer.weights.bias.double() / scale.double()) * scale.double()
        node = nodes[layer.name]
        node.update_arg(2, editor.add_constant(f"{layer.name}_bias_on_grid", snapped.float()))
    return editor.finish()


def _in_float(exported: ExportedProgram, names: list[str], declined: dict[str, str]) -> list[Declined]:
    """Return the operators that stay in float, in order: those declined, and those outside every layer.

    Args:
        exported: The converted program.
        names: What its computing nodes were called when they were annotated.
        declined: The reasons by those names.
    """
    inside = {node for layer in quantized_layers(exported) for node in layer.nodes}
    rows = []
    nodes = _computing(exported.graph)
    if len(nodes) != len(names):  # The conversion computed something once and for all.
        names = [node.name for node in nodes]
    for node, name in zip(nodes, names, strict=True):
        reason = declined.get(name)
        if reason is None and node not in inside:
            reason = "its value is used both before and after its activation, or by an operator in float"
        if reason is not None:
            what = f"{operator_name(node)} ({node.name})"
            rows.append(Declined(what=what, where=source_line(node), reason=reason))
    return rows


def _computing(graph: Graph) -> list[Node]:
    """Return what computes tensors; its order survives annotation, conversion and the second capture."""
    quantization = (QUANTIZE, DEQUANTIZE, DEQUANTIZE_PER_CHANNEL)
    return [
        node
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target not in quantization
        if isinstance(node.meta.get("val"), torch.Tensor)
    ]
