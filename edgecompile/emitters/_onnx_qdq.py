"""Brings a QDQ graph into the form that ONNX Runtime fuses into integer operators.

ONNX Runtime looks for DequantizeLinear -> operator -> QuantizeLinear with nothing between, an int32
bias, and one type of steps on both sides (its QDQ selectors). What torch.onnx.export writes has float
biases, activations before the QuantizeLinear and pads before the convolution.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgecompile.emitters._onnx_graph import (
    Grid,
    add_constant,
    constant,
    dequantize,
    dequantized_grid,
    grid_of,
    insert_after,
    producer,
    sole_consumer,
    source,
)
from edgecompile.emitters._onnx_operators import (
    flatten_linears,
    fold_pads,
    pad_steps,
    pool_spatial_means,
    zero_masked_weights,
)

WeightDtype = Literal["int8", "uint8"]

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_INT32 = np.iinfo(np.int32)


def prepare_for_fusion(model: ir.Model, weight_dtype: WeightDtype) -> None:
    """Rewrite a model in place so that ONNX Runtime's fusions apply; it computes the same steps.

    Args:
        model: Any ONNX model; of one without Q/DQ nodes only the pads are folded.
        weight_dtype: How convolutions and linears store their weights. `uint8` is `int8` moved by 128,
            zero point too: exact on every x86-64 CPU, where signed weights saturate without VNNI.
    """
    rewrites = [
        fold_pads,
        remove_requantizations,
        use_unsigned_activations,
        absorb_activations,
        pad_steps,
        zero_masked_weights,
        pool_spatial_means,
        flatten_linears,
        quantize_biases,
    ]
    if weight_dtype == "uint8":
        rewrites.append(use_unsigned_weights)
    remove_unused = RemoveUnusedNodesPass()
    for rewrite in [*rewrites, name_weights, separate_parameters]:
        rewrite(model.graph)
        remove_unused(model)  # a dead reader would hide that a value has one reader


def remove_requantizations(graph: ir.Graph) -> None:
    """Remove DequantizeLinear -> QuantizeLinear with one grid: it changes no step."""
    for node in list(graph):
        after = grid_of(node, "QuantizeLinear")
        before = dequantized_grid(node.inputs[0]) if after is not None else None
        if after is None or before is None or not before.same_as(after) or node.outputs[0].is_graph_output():
            continue
        steps = source(producer(node.inputs[0]))
        if steps is not None:
            node.outputs[0].replace_all_uses_with(steps)


def use_unsigned_activations(graph: ir.Graph) -> None:
    """Store activations as uint8: the same steps and zero points, moved by 128.

    On x86-64 ONNX Runtime has unsigned kernels only. It moves signed activations itself at load, but
    not those that are read twice (residual branches), whose convolutions would then run in float. On
    ARM its kernels take both.
    """
    for node in list(graph):
        grid, output = grid_of(node, "QuantizeLinear"), node.outputs[0]
        if grid is None or grid.zero_point.dtype != np.int8 or output.is_graph_output():
            continue
        if all(reader.op_type == "DequantizeLinear" for reader in output.consumers()):
            for end in (node, *output.consumers()):
                _move_zero_point(graph, end)
    for node in list(graph):
        if _holds_int8(node) and not _is_weight(node.outputs[0]):
            _move_constant(graph, node)


def use_unsigned_weights(graph: ir.Graph) -> None:
    """Store int8 weights as uint8: the same steps and zero points, moved by 128."""
    for node in list(graph):
        if _holds_int8(node) and _is_weight(node.outputs[0]):
            _move_constant(graph, node)


def absorb_activations(graph: ir.Graph) -> None:
    """Let the QuantizeLinear after a Relu or Clip do its work.

    Where the grid ends at the bounds, saturation clips and the node goes. Else the steps are clipped
    after the QuantizeLinear, out of the fusion's way: rounding is monotone, so no step changes either.
    """
    for node in list(graph):
        bounds = _bounds(node)
        quantize = sole_consumer(node.outputs[0]) if bounds is not None else None
        grid = grid_of(quantize, "QuantizeLinear")
        if bounds is None or quantize is None or grid is None or not grid.per_tensor:
            continue
        quantize.replace_input_with(0, node.inputs[0])
        limits = np.iinfo(grid.zero_point.dtype)
        low, high = grid.step(bounds[0]), grid.step(bounds[1])
        if low > limits.min or high < limits.max:
            ends = [
                add_constant(graph, f"{node.name}_{role}", np.array(step, grid.zero_point.dtype))
                for role, step in (("min", low), ("max", high))
            ]
            insert_after(quantize, "Clip", ends, f"{node.name}_steps")


def quantize_biases(graph: ir.Graph) -> None:
    """Store the bias of a quantized convolution or linear as int32 with scale s_x * s_w, zero point 0.

    This is the grid of the integer accumulator, to which the quantizer has already snapped the bias.
    """
    for node in list(graph):
        if node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3:
            continue
        bias = constant(node.inputs[2])
        input_grid, weight_grid = dequantized_grid(node.inputs[0]), dequantized_grid(node.inputs[1])
        if bias is None or input_grid is None or weight_grid is None or not input_grid.per_tensor:
            continue
        scale = input_grid.scale.reshape(()) * weight_grid.scale  # float32, () or (C,)
        steps = np.rint(bias.astype(np.float64) / scale.astype(np.float64))
        if np.abs(steps).max(initial=0) > _INT32.max:
            continue
        grid = Grid(scale, np.zeros(scale.shape, np.int32), 0)
        stored = add_constant(graph, f"{node.name}_bias", steps.astype(np.int32))
        node.replace_input_with(2, dequantize(graph, node, stored, grid, f"{node.name}_bias_dequantize"))


def name_weights(graph: ir.Graph) -> None:
    """Name quantized weights after the node that reads them: PT2E numbers them (`_frozen_param0`)."""
    for node in graph:
        stored = source(producer(node.inputs[1])) if node.op_type in _WEIGHTED else None
        name = f"{node.name}_weight"
        if stored is not None and stored.is_initializer() and name not in graph.initializers:
            stored.name = name


def separate_parameters(graph: ir.Graph) -> None:
    """Give every Q and DQ node a scale and a zero point of its own, named after it.

    ONNX Runtime 1.32 with `session.x64quantprecision` fails to load a model that shares them.
    """
    for node in list(graph):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for index, role in ((1, "scale"), (2, "zero_point")):
            array = constant(node.inputs[index] if index < len(node.inputs) else None)
            if array is not None:
                node.replace_input_with(index, add_constant(graph, f"{node.name}_{role}", array))


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return the lower and upper bound of a Relu or Clip, or None if it is neither."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    if node.op_type != "Clip":
        return None
    low, high = [*node.inputs[1:], None, None][:2]
    low_bound, high_bound = constant(low), constant(high)
    if (low is not None and low_bound is None) or (high is not None and high_bound is None):
        return None
    return (
        float("-inf") if low_bound is None else float(low_bound.item()),
        float("inf") if high_bound is None else float(high_bound.item()),
    )


def _holds_int8(node: ir.Node) -> bool:
    """Whether a node dequantizes a constant of signed steps."""
    steps = constant(node.inputs[0]) if grid_of(node, "DequantizeLinear") is not None else None
    return steps is not None and steps.dtype == np.int8


def _is_weight(value: ir.Value) -> bool:
    """Whether a convolution or linear reads a value as its weight, directly or transposed."""
    return any(
        (use.node.op_type in _WEIGHTED and use.idx == 1)
        or (use.node.op_type == "Transpose" and _is_weight(use.node.outputs[0]))
        for use in value.uses()
    )


def _move_constant(graph: ir.Graph, node: ir.Node) -> None:
    stored, steps = node.inputs[0], constant(node.inputs[0])
    if stored is None or steps is None:
        return
    node.replace_input_with(0, add_constant(graph, f"{stored.name}_unsigned", _moved(steps)))
    _move_zero_point(graph, node)


def _move_zero_point(graph: ir.Graph, node: ir.Node) -> None:
    zero_point = constant(node.inputs[2])
    if zero_point is not None:
        node.replace_input_with(2, add_constant(graph, f"{node.name}_moved", _moved(zero_point)))


def _moved(steps: np.ndarray) -> np.ndarray:
    return (steps.astype(np.int16) + 128).astype(np.uint8)
