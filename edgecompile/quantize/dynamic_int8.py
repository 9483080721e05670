"""Dynamic INT8 quantization: weights in int8, the activations before a linear layer quantized at run time.

The range of an activation is that of the values that are just there, so no calibration is needed, and
ranges that vary from input to input, as a transformer's do, cost no accuracy.
"""

from __future__ import annotations

import operator
import time

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.program import CapturedProgram, QuantizedProgram, Reason, step_record
from edgecompile.quantize.dynamic_layers import CHOOSE_PARAMETERS, DEQUANTIZE_DYNAMIC, QUANTIZE_DYNAMIC
from edgecompile.quantize.layers import constant_bytes, constants_of
from edgecompile.quantize.layers_in_float import PRODUCTS, reason_in_float, weights_in_float
from edgecompile.quantize.weights import WeightGrid, WeightStore
from edgecompile.target import QuantizationSettings

aten = torch.ops.aten

_BOUNDS = (-128, 127)
# The scale of a constant zero; the least that the operator takes.
_EPS = 2.0**-23


def quantize_dynamic(program: CapturedProgram, settings: QuantizationSettings) -> QuantizedProgram:
    """Quantize every linear layer with a constant weight.

    Before: linear(x, w, b)                                             w float32 (N, K)
    After:  s, z = choose_qparams(x); q = quantize(x, s, z)             q int8, x's shape
            linear(dequantize(q, s, z), dequantize(steps, scales), b)   steps int8 (N, K), scales (N,)

    Each layer has a choice of its own, also where layers share an input: a delegate takes it whole.
    """
    started = time.perf_counter()
    editor = ProgramEditor(program.exported)
    constants = constants_of(program.exported)
    store, grid = WeightStore(editor), WeightGrid(bits=settings.weight_bits)
    reasons: dict[str, str] = {}
    for layer in editor.calls(aten.linear.default):
        reason = reason_in_float(layer, constants)
        if reason is None and layer.meta["val"].dim() < 2:
            reason = Reason(
                "its input is a single vector without a batch, which QNNPACK does not take",
                change="give it a batch of 1",
            )
        if reason is not None:
            reasons[layer.name] = reason
            continue
        layer.update_arg(0, _quantized_at_run_time(editor, layer))
        layer.update_arg(1, store.dequantized(layer, grid))
        editor.rewrites += 1
    exported = editor.finish()
    step = step_record("quantize", started, program.exported, exported, rewrites=editor.rewrites)
    other = Reason("only linear layers are quantized at run time", change="build with the precision int8")
    return QuantizedProgram(
        name=program.name,
        precision="int8-dynamic",
        exported=exported,
        float_weight_bytes=constant_bytes(program.exported),
        unquantized=tuple(weights_in_float(exported, reasons, other=other, products=PRODUCTS)),
        steps=(*program.steps, step),
    )


def _quantized_at_run_time(editor: ProgramEditor, layer: Node) -> Node:
    """Insert the choice of a range for a layer's input, and return the dequantized input."""
    source = layer.args[0]
    chosen = editor.insert(layer, CHOOSE_PARAMETERS, source, *_BOUNDS, _EPS, torch.int8)
    scale, zero_point = (editor.insert(layer, operator.getitem, chosen, index) for index in (0, 1))
    parameters = (scale, zero_point, *_BOUNDS, torch.int8)
    steps = editor.insert(layer, QUANTIZE_DYNAMIC, source, *parameters)
    return editor.insert(layer, DEQUANTIZE_DYNAMIC, steps, *parameters)
