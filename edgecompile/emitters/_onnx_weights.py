"""Lowers layers with quantized weights and float activations to what ONNX Runtime runs fast and exactly.

A DequantizeLinear before a MatMul is *not* that: ONNX Runtime 1.32 makes a MatMulNBits of the two that
quantizes the activations as well, unasked (`accuracy_level` 4; 46 dB against the same weights in float,
where the forms below have 130).

- 8 bits, activations quantized at run time: DynamicQuantizeLinear and MatMulInteger, which ONNX Runtime
  fuses to DynamicQuantizeMatMul or MatMulIntegerToFloat.
- 8 bits, computed in float: Cast and Mul on the stored steps. ONNX Runtime computes them once, at load, so
  it runs as fast as in float; the file is small, the memory is that of a float model.
- 4 bits, computed in float: MatMulNBits of ONNX Runtime's own domain with `accuracy_level` 1 (float32).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgecompile.emitters._onnx_graph import Array, add_constant, constant, grid_of, insert_before
from edgecompile.emitters._onnx_qdq import WeightDtype
from edgecompile.errors import LoweringFailedError
from edgecompile.program import Precision

_MICROSOFT = "com.microsoft"
_GROUP_SIZES = (16, 32, 64, 128, 256)  # of MatMulNBits
_FLOAT32_COMPUTE = 1  # MatMulNBits: accuracy_level


def lower_weights(model: ir.Model, precision: Precision, weight_dtype: WeightDtype) -> None:
    """Rewrite in place every DequantizeLinear of a weight and what reads it.

    Args:
        model: Has weights between a DequantizeLinear and a MatMul, Gemm or Conv, and no other Q/DQ nodes.
        precision: Of the program.
        weight_dtype: How MatMulInteger's weights are stored; `uint8` is exact on every x86-64 CPU.

    Raises:
        LoweringFailedError: Something else reads a weight.
    """
    graph = model.graph
    quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}
    stored: dict[tuple[ir.Value | None, bytes], tuple[ir.Value, ...]] = {}  # by their steps and scales
    for node in list(graph):
        grid = grid_of(node, "DequantizeLinear")
        steps = constant(node.inputs[0]) if grid is not None else None
        if grid is None or steps is None:
            continue
        key = (node.inputs[0], grid.scale.tobytes())
        if precision == "int8-dynamic":
            for product in _products(node.outputs[0]):
                if key not in stored:
                    stored[key] = _integers(graph, product.name, steps, grid.scale, weight_dtype)
                _quantize_at_run_time(product, stored[key], quantized)
        elif precision == "int4-weights" and _fits_nibbles(steps):
            for product in _products(node.outputs[0]):
                if key not in stored:
                    stored[key] = _nibbles(graph, product, steps, grid.scale)
                _multiply_in_groups(product, stored[key], steps)
            model.opset_imports[_MICROSOFT] = 1
        else:
            _dequantize_at_load(graph, node, steps, grid.scale)


def _fits_nibbles(steps: Array) -> bool:
    """Tell whether a weight is stored in groups of 4 bits; one that is not has steps up to 127."""
    is_in_groups = steps.ndim == 2 and steps.shape[1] in _GROUP_SIZES
    return is_in_groups and bool(steps.min() >= -8 and steps.max() <= 7)


def _products(weight: ir.Value) -> Iterator[ir.Node]:
    """Yield the matrix products that read a weight, as it is, reshaped or transposed."""
    for use in list(weight.uses()):
        if use.node.op_type in ("Reshape", "Transpose"):
            yield from _products(use.node.outputs[0])
        elif use.node.op_type in ("MatMul", "Gemm") and use.idx == 1:
            yield use.node
        else:
            raise LoweringFailedError(
                f"{use.node.op_type} reads a quantized weight", where=f"node {use.node.name!r}"
            )


def _integers(
    graph: ir.Graph, name: str | None, steps: Array, scales: Array, weight_dtype: WeightDtype
) -> tuple[ir.Value, ...]:
    """Store a weight (N, K) for MatMulInteger; return steps (K, N), zero point () and scales (N,)."""
    moved = 128 if weight_dtype == "uint8" else 0
    transposed = (steps.T.astype(np.int16) + moved).astype(weight_dtype)
    return (
        add_constant(graph, f"{name}_weight", transposed),
        add_constant(graph, f"{name}_weight_zero_point", np.array(moved, weight_dtype)),
        add_constant(graph, f"{name}_weight_scale", scales.astype(np.float32)),
    )


def _quantize_at_run_time(
    product: ir.Node, stored: tuple[ir.Value, ...], quantized: dict[ir.Value, tuple[ir.Value, ...]]
) -> None:
    """Let a product compute in integers; layers that share an input share its quantization.

    Before: MatMul(x, w)
    After:  q, s, z = DynamicQuantizeLinear(x); Cast(MatMulInteger(q, steps, z, 0)) * (s * scales)
    """
    name, value = product.name, product.inputs[0]
    weight, zero, weight_scale = stored
    assert value is not None
    if value not in quantized:
        dynamic = ir.node("DynamicQuantizeLinear", [value], num_outputs=3, name=f"{name}_quantize")
        for output, role in zip(dynamic.outputs, ("steps", "scale", "zero_point"), strict=True):
            output.name = f"{name}_{role}"
        product.prepend(dynamic)
        quantized[value] = tuple(dynamic.outputs)
    steps, scale, zero_point = quantized[value]
    sums = insert_before(product, "MatMulInteger", [steps, weight, zero_point, zero], f"{name}_sums")
    sums = insert_before(product, "Cast", [sums], f"{name}_cast", to=ir.DataType.FLOAT)
    multiplier = insert_before(product, "Mul", [scale, weight_scale], f"{name}_multiplier")
    _become(product, "Mul", [sums, multiplier])


def _nibbles(graph: ir.Graph, product: ir.Node, steps: Array, scales: Array) -> tuple[ir.Value, ...]:
    """Store a weight (N, K) for MatMulNBits; return two steps a byte, and the scales (N, K / group).

    Args:
        graph: Gets the constants.
        product: One that reads the weight.
        steps: int8 (N * K / group, group), the groups of an output one after another.
        scales: float32 (N * K / group,).
    """
    shape = product.outputs[0].shape
    assert shape is not None
    assert isinstance(shape[-1], int)
    nibbles = (steps + 8).astype(np.uint8)  # the operator's own zero point
    packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)  # the first of two is the lower half
    return (
        add_constant(graph, f"{product.name}_weight", packed.reshape(shape[-1], -1, packed.shape[1])),
        add_constant(graph, f"{product.name}_weight_scale", scales.reshape(shape[-1], -1)),
    )


def _multiply_in_groups(product: ir.Node, stored: tuple[ir.Value, ...], steps: Array) -> None:
    """Turn a product into MatMulNBits."""
    weight, scales = stored
    assert scales.shape is not None
    outputs = int(scales.shape[0])  # type: ignore[arg-type]
    sizes = {"K": steps.size // outputs, "N": outputs, "bits": 4, "block_size": steps.shape[1]}
    inputs = [product.inputs[0], weight, scales]
    _become(product, "MatMulNBits", inputs, _MICROSOFT, accuracy_level=_FLOAT32_COMPUTE, **sizes)


def _become(
    product: ir.Node, op_type: str, inputs: list[ir.Value | None], domain: str = "", **attributes: int
) -> None:
    """Turn a MatMul or Gemm into another operator, with an addition after it where the Gemm has a bias."""
    bias = product.inputs[2] if len(product.inputs) > 2 else None
    if bias is not None:
        name = f"{product.name}_product"
        before = ir.node(op_type, inputs, dict(attributes), domain=domain, name=name)
        before.outputs[0].name = name
        product.prepend(before)
        op_type, inputs, domain, attributes = "Add", [before.outputs[0], bias], "", {}
    product.op_type, product.domain = op_type, domain
    product.attributes.clear()
    product.attributes.update({key: ir.AttrInt64(key, value) for key, value in attributes.items()})
    product.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        product.replace_input_with(index, value)


def _dequantize_at_load(graph: ir.Graph, node: ir.Node, steps: Array, scales: Array) -> None:
    """Turn a DequantizeLinear of symmetric steps into Cast and Mul: the same floats to the bit."""
    broadcast = scales.astype(np.float32).reshape(-1, *[1] * (steps.ndim - 1))
    multiplier = add_constant(graph, f"{node.name}_scales", broadcast)
    cast = insert_before(node, "Cast", [node.inputs[0]], f"{node.name}_steps", to=ir.DataType.FLOAT)
    node.op_type = "Mul"
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, cast)
    node.replace_input_with(1, multiplier)
