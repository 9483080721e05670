"""Weight-only quantization: weights stored in 8 or 4 bits, everything computed in float.

It makes artifacts smaller, and faster where reading the weights is what takes the time; activations keep
their precision, so no calibration is needed.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.program import CapturedProgram, Precision, QuantizedProgram, Reason, step_record
from edgecompile.quantize.layers import WEIGHTED, constant_bytes, constants_of
from edgecompile.quantize.layers_in_float import reason_in_float, weights_in_float
from edgecompile.quantize.weights import WeightGrid, WeightStore
from edgecompile.target import QuantizationSettings

aten = torch.ops.aten


def quantize_weights(
    program: CapturedProgram, settings: QuantizationSettings, bits: Literal[4, 8]
) -> QuantizedProgram:
    """Quantize the weight of every convolution and linear layer whose weight is constant.

    In 8 bits each output channel has a scale. In 4 bits each group of `weight_group_size` inputs of a
    linear layer has one; what no kernel takes in 4 bits is stored in 8, and says so.

    Before: linear(x, w, b)                               w float32 (N, K)
    After:  linear(x, dequantize(steps, scales), b)
    """
    started = time.perf_counter()
    editor = ProgramEditor(program.exported)
    constants = constants_of(program.exported)
    store = WeightStore(editor)
    reasons: dict[str, str] = {}
    for layer in editor.calls(*WEIGHTED):
        reason = reason_in_float(layer, constants)
        if reason is not None:
            reasons[layer.name] = reason
            continue
        grid = WeightGrid(bits=settings.weight_bits)
        if bits == 4:
            wide = _reason_in_8_bits(layer, constants, settings.weight_group_size)
            if wide is None:
                grid = WeightGrid(bits=4, group_size=settings.weight_group_size)
            else:
                reasons[layer.name] = Reason(f"its weight is stored in 8 bits: {wide}", change=wide.change)
        layer.update_arg(1, store.dequantized(layer, grid))
        editor.rewrites += 1
    exported = editor.finish()
    step = step_record("quantize", started, program.exported, exported, rewrites=editor.rewrites)
    precision: Precision = "int4-weights" if bits == 4 else "int8-weights"
    other = Reason(
        "only the weights of convolutions and linear layers are quantized",
        change="build with the precision int8",
    )
    return QuantizedProgram(
        name=program.name,
        precision=precision,
        exported=exported,
        float_weight_bytes=constant_bytes(program.exported),
        unquantized=tuple(weights_in_float(exported, reasons, other=other)),
        steps=(*program.steps, step),
    )


def _reason_in_8_bits(layer: Node, constants: dict[str, torch.Tensor], group_size: int) -> Reason | None:
    """Return why a weight cannot be stored in groups of 4 bits, or None where it can be."""
    if layer.target is not aten.linear.default:
        return Reason(
            "only linear layers have kernels for 4 bits", change="build with the precision int8-weights"
        )
    weight = layer.args[1]
    assert isinstance(weight, Node)
    inputs = constants[weight.name].shape[1]
    if inputs % group_size:
        return Reason(
            f"its {inputs} inputs are no multiple of the group of {group_size}",
            change="choose another width, or a weight_group_size that divides it",
        )
    return None
