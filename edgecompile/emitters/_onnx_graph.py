"""The few questions and edits on an ONNX graph that the rewrites share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """The parameters of a QuantizeLinear or DequantizeLinear: value = scale * (step - zero_point).

    Attributes:
        scale: float32, () per tensor or (C,) per channel.
        zero_point: Of the type of the steps, shaped like the scale.
        axis: The channels' axis; no meaning per tensor.
    """

    scale: Array
    zero_point: Array
    axis: int

    @property
    def per_tensor(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return self.scale.size == 1

    def same_as(self, other: Grid) -> bool:
        """Whether both are per tensor and map steps to the same values."""
        if not (self.per_tensor and other.per_tensor) or self.zero_point.dtype != other.zero_point.dtype:
            return False
        pairs = ((self.scale, other.scale), (self.zero_point, other.zero_point))
        return all(bool(mine.item() == theirs.item()) for mine, theirs in pairs)

    def step(self, value: float) -> int:
        """Return the step that a per-tensor grid stores for a value: saturated, half to even."""
        limits = np.iinfo(self.zero_point.dtype)
        step = np.rint(np.float32(value) / np.float32(self.scale.item())) + float(self.zero_point.item())
        return int(np.clip(step, limits.min, limits.max))


def constant(value: ir.Value | None) -> Array | None:
    """Return the constant that a value holds, or None if it is computed or an input."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    return value.const_value.numpy()


def grid_of(node: ir.Node | None, op_type: str) -> Grid | None:
    """Return the grid of a Q or DQ node, or None if the node is another or its grid is not constant."""
    if node is None or node.op_type != op_type or len(node.inputs) < 3:
        return None
    scale, zero_point = constant(node.inputs[1]), constant(node.inputs[2])
    if scale is None or zero_point is None:
        return None
    axis = node.attributes.get("axis")
    return Grid(scale, zero_point, 1 if axis is None else axis.as_int())


def dequantized_grid(value: ir.Value | None) -> Grid | None:
    """Return the grid of the DequantizeLinear that computes a value, or None."""
    return grid_of(producer(value), "DequantizeLinear")


def producer(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value, or None for an input or a constant."""
    return None if value is None else value.producer()


def source(node: ir.Node | None) -> ir.Value | None:
    """Return the value that a node reads first."""
    return None if node is None or not node.inputs else node.inputs[0]


def shape_of(value: ir.Value | None) -> list[int] | None:
    """Return a value's dimensions, -1 for each dynamic one, or None where they are not known."""
    if value is None or value.shape is None:
        return None
    return [dimension if isinstance(dimension, int) else -1 for dimension in value.shape]


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """Return the node that alone reads a value, or None."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add an initializer; a number is added to the name if it is taken."""
    unique, number = name, 1
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique)
    value = ir.Value(
        name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def insert_before(
    node: ir.Node, op_type: str, inputs: list[ir.Value | None], name: str, **attributes: int
) -> ir.Value:
    """Insert an operator with one output, named like the operator, before a node; return the output."""
    inserted = ir.node(op_type, inputs, attributes=dict(attributes), name=name)
    inserted.outputs[0].name = name
    node.prepend(inserted)
    return inserted.outputs[0]


def insert_after(node: ir.Node, op_type: str, parameters: list[ir.Value], name: str) -> None:
    """Insert an operator between a node's output and all that read it."""
    output = node.outputs[0]
    readers = list(output.uses())
    inserted = ir.node(op_type, [output, *parameters], name=name)
    inserted.outputs[0].name = name
    node.append(inserted)
    for use in readers:
        use.node.replace_input_with(use.idx, inserted.outputs[0])


def dequantize(graph: ir.Graph, before: ir.Node, steps: ir.Value, grid: Grid, name: str) -> ir.Value:
    """Insert a DequantizeLinear; return the values."""
    scale = add_constant(graph, f"{name}_grid", grid.scale)
    zero_point = add_constant(graph, f"{name}_grid_zero", grid.zero_point)
    return insert_before(before, "DequantizeLinear", [steps, scale, zero_point], name, axis=grid.axis)
