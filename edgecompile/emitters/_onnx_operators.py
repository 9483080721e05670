"""Rewrites operators into those that ONNX Runtime has integer kernels for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgecompile.emitters._onnx_graph import (
    add_constant,
    constant,
    dequantize,
    dequantized_grid,
    grid_of,
    insert_after,
    insert_before,
    producer,
    shape_of,
    sole_consumer,
    source,
)

_FAR = -1e30  # from any score


def fold_pads(graph: ir.Graph) -> None:
    """Fold zero padding into the convolution that alone reads it, also from before its Q/DQ pair.

    Zero is exactly on every grid (it is the zero point), so padding and quantizing commute.
    """
    for conv in list(graph):
        if conv.op_type != "Conv":
            continue
        reader = _reader_of_padding(conv)
        pad = producer(reader.inputs[0])
        widths = None if pad is None else _zero_pad_widths(pad)
        if pad is None or widths is None:
            continue
        own = conv.attributes.get("pads")
        total = widths if own is None else [a + b for a, b in zip(widths, own.as_ints(), strict=True)]
        conv.attributes["pads"] = ir.AttrInt64s("pads", total)
        reader.replace_input_with(0, pad.inputs[0])


def _reader_of_padding(conv: ir.Node) -> ir.Node:
    """Return the convolution, or the QuantizeLinear of a Q/DQ pair that serves only it."""
    dequantize_node = producer(conv.inputs[0])
    if dequantize_node is None or dequantize_node.op_type != "DequantizeLinear":
        return conv
    quantize = producer(dequantize_node.inputs[0])
    if quantize is None or quantize.op_type != "QuantizeLinear":
        return conv
    alone = sole_consumer(quantize.outputs[0]) and sole_consumer(dequantize_node.outputs[0])
    return quantize if alone else conv


def _zero_pad_widths(pad: ir.Node) -> list[int] | None:
    """Return a Pad's spatial widths in Conv's order, or None if a convolution cannot do the same."""
    mode = pad.attributes.get("mode")
    if pad.op_type != "Pad" or (mode is not None and mode.as_string() != "constant"):
        return None
    _, widths_value, fill_value, axes = [*pad.inputs, None, None][:4]
    widths, fill = constant(widths_value), constant(fill_value)
    if widths is None or axes is not None or (fill_value is not None and (fill is None or fill.item() != 0)):
        return None
    rank = len(widths) // 2
    begins, ends = widths[:rank].tolist(), widths[rank:].tolist()
    if any(begins[:2] + ends[:2]) or min(begins + ends) < 0:  # batch and channels, or cropping
        return None
    return [*begins[2:], *ends[2:]]


def pad_steps(graph: ir.Graph) -> None:
    """Pad quantized values as integers: ONNX Runtime has a kernel for them, but fuses no Q/DQ pair into it.

    Before: DQ -> Pad (value) -> Q, of one grid
    After:  Pad (the value's step)
    """
    for node in list(graph):
        mode = node.attributes.get("mode")
        if node.op_type != "Pad" or (mode is not None and mode.as_string() != "constant"):
            continue
        quantize = sole_consumer(node.outputs[0])
        before, after = dequantized_grid(node.inputs[0]), grid_of(quantize, "QuantizeLinear")
        steps = source(producer(node.inputs[0]))
        given = node.inputs[2] if len(node.inputs) > 2 else None
        value = np.zeros(()) if given is None else constant(given)
        if before is None or after is None or steps is None or value is None or len(node.inputs) > 3:
            continue
        if quantize is None or not before.same_as(after) or quantize.outputs[0].is_graph_output():
            continue
        fill = np.array(before.step(float(value.item())), before.zero_point.dtype)
        filling = add_constant(graph, f"{node.name}_step", fill)
        padded = insert_before(quantize, "Pad", [steps, node.inputs[1], filling], f"{node.name}_steps")
        quantize.outputs[0].replace_all_uses_with(padded)


def zero_masked_weights(graph: ir.Graph) -> None:
    """Give the weight 0 to what a boolean mask keeps from attention, also where it keeps nothing.

    Before: Where (mask, 0, -3.4e38) -> Add (scores) -> Softmax -> IsNaN -> Where (0, weights)
    After:  Where (mask, 0, -3.4e38) -> Add (scores) -> Softmax -> Where (mask, weights, 0)

    With a least number that is not infinite torch.onnx's softmax is never NaN: where nothing is kept it
    gives all the same weight, and PyTorch gives none. Of a constant mask the sum alone is left, itself a
    constant: what it adds the least number to is kept from attention.
    """
    for node in list(graph):
        is_nan = producer(node.inputs[0]) if node.op_type == "Where" else None
        if is_nan is None or is_nan.op_type != "IsNaN" or is_nan.inputs[0] is not node.inputs[2]:
            continue
        softmax = producer(node.inputs[2])
        add = producer(softmax.inputs[0]) if softmax is not None and softmax.op_type == "Softmax" else None
        if add is None or add.op_type != "Add":
            continue
        zero, weights = node.inputs[1], node.inputs[2]
        for mask, is_kept in filter(None, (_mask_of(graph, value, node.name) for value in add.inputs)):
            chosen = (mask, weights, zero) if is_kept else (mask, zero, weights)
            for index, value in enumerate(chosen):
                node.replace_input_with(index, value)


def _mask_of(graph: ir.Graph, added: ir.Value | None, name: str | None) -> tuple[ir.Value, bool] | None:
    """Return the boolean mask that is added to scores, and whether it is true for what is kept."""
    values = constant(added)
    if values is not None:
        is_mask = ((values == 0) | (values < _FAR)).all() and (values < _FAR).any()
        return (add_constant(graph, f"{name}_kept", values == 0), True) if is_mask else None
    choice = producer(added)
    if choice is None or choice.op_type != "Where" or choice.inputs[0] is None:
        return None
    chosen, other = constant(choice.inputs[1]), constant(choice.inputs[2])
    if chosen is None or other is None:
        return None
    for kept, far, is_kept in ((chosen, other, True), (other, chosen, False)):
        if not kept.any() and (far < _FAR).all():
            return choice.inputs[0], is_kept
    return None


def pool_spatial_means(graph: ir.Graph) -> None:
    """Turn a quantized mean over all spatial axes into GlobalAveragePool, which has an integer kernel."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or dequantized_grid(node.inputs[0]) is None:
            continue
        axes = constant(node.inputs[1] if len(node.inputs) > 1 else None)
        shape = shape_of(node.inputs[0])
        keepdims = node.attributes.get("keepdims")
        if axes is None or shape is None or (keepdims is not None and not keepdims.as_int()):
            continue
        spatial = list(range(2, len(shape)))
        if spatial and sorted(axis % len(shape) for axis in axes.tolist()) == spatial:
            node.op_type = "GlobalAveragePool"
            node.attributes.clear()
            node.resize_inputs(1)


def flatten_linears(graph: ir.Graph) -> None:
    """Turn a quantized linear on more than two axes into Gemm between two reshapes of steps.

    ONNX Runtime's QGemm takes matrices only; as MatMul and Add the result leaves the integers.

    Before: DQ (B, T, K) -> MatMul (K, N) -> Add (N,) -> Q (B, T, N)
    After:  Reshape (B*T, K) -> DQ -> Gemm -> Q -> Reshape (B, T, N)
    """
    for matmul in list(graph):
        grid = dequantized_grid(matmul.inputs[0]) if matmul.op_type == "MatMul" else None
        weight = _transposed_weight(matmul) if grid is not None else None
        shape = shape_of(matmul.outputs[0])
        if grid is None or weight is None or shape is None:
            continue
        last, bias = _bias_add(matmul, shape[-1])
        quantize = sole_consumer(last.outputs[0])
        if quantize is None or quantize.op_type != "QuantizeLinear" or shape.count(-1) > 1:
            continue
        # (B, T, K) -> (B*T, K); the weight is (N, K)
        columns = (shape_of(weight) or [-1])[-1]
        rows = add_constant(graph, f"{last.name}_rows", np.array([-1, columns], np.int64))
        steps = source(producer(matmul.inputs[0]))
        flat = insert_before(quantize, "Reshape", [steps, rows], f"{last.name}_flat")
        values = dequantize(graph, quantize, flat, grid, f"{last.name}_input")
        product = insert_before(quantize, "Gemm", [values, weight, bias], f"{last.name}_gemm", transB=1)
        quantize.replace_input_with(0, product)
        # (B*T, N) -> (B, T, N)
        target = add_constant(graph, f"{last.name}_shape", np.array(shape, np.int64))
        insert_after(quantize, "Reshape", [target], f"{last.name}_unflat")


def _transposed_weight(matmul: ir.Node) -> ir.Value | None:
    """Return the dequantized (N, K) weight that a MatMul reads transposed, or None."""
    transpose = producer(matmul.inputs[1])
    if transpose is None or transpose.op_type != "Transpose":
        return None
    weight = transpose.inputs[0]
    steps = constant(source(producer(weight)))
    is_matrix = dequantized_grid(weight) is not None and steps is not None and steps.ndim == 2
    return weight if is_matrix else None


def _bias_add(matmul: ir.Node, columns: int) -> tuple[ir.Node, ir.Value | None]:
    """Return the node that ends a linear, and its bias: the Add of a constant (N,), or the MatMul."""
    add = sole_consumer(matmul.outputs[0])
    if add is None or add.op_type != "Add":
        return matmul, None
    bias = next((value for value in add.inputs if value is not matmul.outputs[0]), None)
    array = constant(bias)
    return (add, bias) if array is not None and array.shape == (columns,) else (matmul, None)
