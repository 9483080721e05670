"""The dynamic sizes of a program: torch.export's symbols, and the names that their author gave them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.utils._sympy.value_ranges import bound_sympy

from edgecompile.dynamic_size import BATCH, DynamicSize
from edgecompile.graph_edit import user_input_names

_NAMES = "size_names"  # in the meta of an input: by axis, the name of its size
_LARGEST = 2**31  # torch.export writes what is not bounded as a larger number, or as infinity
Size = int | torch.SymInt


def name_sizes(exported: ExportedProgram, names: Mapping[str, Mapping[int, str]]) -> None:
    """Remember the names of inputs' sizes, by the input and the axis; other dynamic sizes get one.

    A size that all inputs have as their first axis is the batch; any other is called after its input.
    """
    for node, own in zip(inputs_of_graph(exported), _names(exported, names), strict=True):
        node.meta[_NAMES] = own


def _names(exported: ExportedProgram, names: Mapping[str, Mapping[int, str]]) -> list[dict[int, str]]:
    inputs = inputs_of_graph(exported)
    known: dict[Any, str] = {}
    for node in inputs:
        for axis, size in _dynamic(node):
            if axis in names.get(node.name, {}):
                known.setdefault(size.node.expr, names[node.name][axis])
    first = {_expression(value.shape[0]) for value in _values(inputs)}
    if len(first) == 1 and BATCH not in known.values():
        known = {size: BATCH for size in first if size is not None} | known
    return [
        {axis: known.setdefault(size.node.expr, f"{node.name}_dim_{axis}") for axis, size in _dynamic(node)}
        for node in inputs
    ]


def copy_names(copy: Node, original: Node) -> None:
    """Let a copy of an input have its sizes' names."""
    if _NAMES in original.meta:
        copy.meta[_NAMES] = original.meta[_NAMES]


def input_sizes(exported: ExportedProgram, node: Node) -> tuple[DynamicSize, ...]:
    """Return the dynamic sizes of an input."""
    if not _dynamic(node):
        return ()
    if _NAMES not in node.meta:  # not captured by us
        name_sizes(exported, {})
    return tuple(_described(exported, axis, size, node.meta[_NAMES][axis]) for axis, size in _dynamic(node))


def output_sizes(exported: ExportedProgram, node: Node) -> tuple[DynamicSize, ...]:
    """Return the dynamic sizes of an output, made of those of the inputs."""
    names = symbol_names(exported)
    return tuple(
        _described(exported, axis, size, expression_text(str(size.node.expr), names))
        for axis, size in _dynamic(node)
    )


def symbol_names(exported: ExportedProgram) -> dict[str, str]:
    """Return the names of sizes by torch.export's symbols (`s77`)."""
    found: dict[str, str] = {}
    for node in inputs_of_graph(exported):
        for size in input_sizes(exported, node):
            found.setdefault(str(node.meta["val"].shape[size.axis].node.expr), size.name)
    return found


def expression_text(expression: str, names: Mapping[str, str]) -> str:
    """Return an expression of symbols with their names instead."""
    return re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), expression)


def bound_symbols(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Any, int]:
    """Return the value of each symbol for one sample."""
    return {
        size.node.expr: int(tensor.shape[axis])
        for node, tensor in zip(inputs_of_graph(exported), inputs, strict=True)
        for axis, size in _dynamic(node)
    }


def evaluated(size: Size, symbols: Mapping[Any, int]) -> int:
    """Return a size for one sample."""
    return int(size.node.expr.subs(symbols)) if isinstance(size, torch.SymInt) else size


def inputs_of_graph(exported: ExportedProgram) -> list[Node]:
    """Return the model's inputs, in order."""
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    return [placeholders[name] for name in user_input_names(exported)]


def plain_symbols(exported: ExportedProgram) -> bool:
    """Tell whether every dynamic size of an input is a symbol of its own, not made of another one's."""
    sizes = [size for node in inputs_of_graph(exported) for _, size in _dynamic(node)]
    return all(size.node.expr.is_symbol for size in sizes)


def skeleton_shapes(
    sizes: Sequence[Sequence[int | Mapping[str, Any]]],
) -> tuple[list[list[int]], tuple[dict[int, Any], ...] | None]:
    """Return example shapes of inputs, and what torch.export is told of their dynamic sizes.

    Args:
        sizes: Of each input; a dynamic size is what `size_text` gives.
    """
    dims: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    examples: list[list[int]] = []
    dynamic: list[dict[int, Any]] = []
    for shape in sizes:
        own: dict[int, Any] = {}
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                continue
            name, least, most = size["name"], int(size["minimum"]), size["maximum"]
            if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII):
                raise ValueError(f"{name!r:.80} is no name of a size")
            # torch.export takes a size of 1 for a constant, and two of one length for one size.
            lengths.setdefault(name, example_size(least, most, taken=lengths.values()))
            own[axis] = dims.setdefault(name, Dim(name, min=least, max=most))
        examples.append([size if isinstance(size, int) else lengths[size["name"]] for size in shape])
        dynamic.append(own)
    return examples, tuple(dynamic) if dims else None


def example_size(minimum: int, maximum: int | None, taken: Any = ()) -> int:
    """Return a size within bounds that stands for all: above 1, and another one than those taken."""
    size = max(minimum, 2)
    while size in set(taken) and (maximum is None or size < maximum):
        size += 1
    return size


def size_text(exported: ExportedProgram, node: Node) -> list[Any]:
    """Return an input's shape as JSON's types: a number, or the name and bounds of a dynamic size."""
    dynamic = {size.axis: size for size in input_sizes(exported, node)}
    return [
        {"name": dynamic[axis].name, "minimum": dynamic[axis].minimum, "maximum": dynamic[axis].maximum}
        if axis in dynamic
        else int(size)
        for axis, size in enumerate(node.meta["val"].shape)
    ]


def names_in_text(shape: Sequence[int | Mapping[str, Any]]) -> dict[int, str]:
    """Return the names of dynamic sizes, by axis, that `size_text` wrote."""
    return {axis: size["name"] for axis, size in enumerate(shape) if not isinstance(size, int)}


def _values(nodes: Sequence[Node]) -> list[torch.Tensor]:
    return [node.meta["val"] for node in nodes if node.meta["val"].dim() > 0]


def _expression(size: Size) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else None


def _dynamic(node: Node) -> list[tuple[int, Any]]:
    sizes = enumerate(node.meta["val"].shape)
    return [(axis, size) for axis, size in sizes if isinstance(size, torch.SymInt)]


def _described(exported: ExportedProgram, axis: int, size: torch.SymInt, name: str) -> DynamicSize:
    bounds = bound_sympy(size.node.expr, exported.range_constraints)
    lower, upper = bounds.lower, bounds.upper
    return DynamicSize(
        axis=axis,
        name=name,
        minimum=max(int(lower), 0) if lower > -_LARGEST else 0,
        maximum=int(upper) if upper < _LARGEST else None,
    )
