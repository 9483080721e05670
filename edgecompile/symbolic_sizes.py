"""The dynamic sizes of a program: torch.export's symbols, and the names that their author gave them.

An input's size is a symbol, or a multiple of one where it goes in steps: `4*s77`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

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
    names = _named_symbols(exported)
    return tuple(
        _described(exported, axis, size, str(size.node.expr.subs(names))) for axis, size in _dynamic(node)
    )


def input_symbols(exported: ExportedProgram) -> set[Any]:
    """Return the symbols that the inputs' sizes are made of."""
    return set(_named_symbols(exported))


def _named_symbols(exported: ExportedProgram) -> dict[Any, Any]:
    """Return each symbol of torch.export's (`s77`) in terms of the inputs' sizes (`height/4`)."""
    found: dict[Any, Any] = {}
    for node in inputs_of_graph(exported):
        for size in input_sizes(exported, node):
            step, symbol = step_and_symbol(node.meta["val"].shape[size.axis].node.expr)
            found.setdefault(symbol, sympy.Symbol(size.name, integer=True, positive=True) / step)
    return found


def bound_symbols(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> dict[Any, int]:
    """Return the value of each symbol for one sample."""
    return {
        symbol: int(tensor.shape[axis]) // step
        for node, tensor in zip(inputs_of_graph(exported), inputs, strict=True)
        for axis, size in _dynamic(node)
        for step, symbol in [step_and_symbol(size.node.expr)]
    }


def evaluated(size: Size, symbols: Mapping[Any, int]) -> int:
    """Return a size for one sample."""
    return int(size.node.expr.subs(symbols)) if isinstance(size, torch.SymInt) else size


def inputs_of_graph(exported: ExportedProgram) -> list[Node]:
    """Return the model's inputs, in order."""
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    return [placeholders[name] for name in user_input_names(exported)]


def plain_symbols(exported: ExportedProgram) -> bool:
    """Tell whether every dynamic size of an input is a symbol, or a multiple of one, of its own."""
    sizes = {size.node.expr for node in inputs_of_graph(exported) for _, size in _dynamic(node)}
    symbols = [step_and_symbol(size)[1] for size in sizes]
    return all(symbol.is_symbol for symbol in symbols) and len(set(symbols)) == len(symbols)


def step_and_symbol(expression: Any) -> tuple[int, Any]:
    """Return what a size is a multiple of, and what it is this multiple of; 1 and itself for others."""
    step, rest = expression.as_coeff_Mul()
    return (int(step), rest) if rest.is_symbol else (1, expression)


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
            step = int(size.get("step", 1))
            if not re.fullmatch(r"[A-Za-z_]\w{0,63}", name, re.ASCII):
                raise ValueError(f"{name!r:.80} is no name of a size")
            # torch.export takes a size of 1 for a constant, and two of one length for one size.
            lengths.setdefault(name, example_size(least, most, step, taken=lengths.values()))
            own[axis] = dims.setdefault(name, dimension(name, least, most, step))
        examples.append([size if isinstance(size, int) else lengths[size["name"]] for size in shape])
        dynamic.append(own)
    return examples, tuple(dynamic) if dims else None


def dimension(name: str, minimum: int, maximum: int | None, step: int) -> Any:
    """Return what torch.export is told of a size: where it goes in steps, a multiple of a size of its own."""
    if step == 1:
        return Dim(name, min=minimum, max=maximum)
    most = None if maximum is None else maximum // step
    return step * Dim(f"_{name}", min=-(-minimum // step), max=most)


def example_size(minimum: int, maximum: int | None, step: int, taken: Any = ()) -> int:
    """Return a size within bounds that stands for all: above 1 step, and another one than those taken."""
    size = max(-(-minimum // step), 2) * step
    while size in set(taken) and (maximum is None or size + step <= maximum):
        size += step
    return size


def size_text(exported: ExportedProgram, node: Node) -> list[Any]:
    """Return an input's shape as JSON's types: a number, or what is known of a dynamic size."""
    dynamic = {size.axis: size.as_json() for size in input_sizes(exported, node)}
    return [
        {key: item for key, item in dynamic[axis].items() if key != "axis"} if axis in dynamic else int(size)
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


def _ranges(exported: ExportedProgram) -> dict[Any, ValueRanges[Any]]:
    """Return the range of each symbol; torch.export says 2 at least of one that stands for steps."""
    ranges = dict(exported.range_constraints)
    for size, whole in exported.range_constraints.items():
        step, symbol = step_and_symbol(size)
        if step > 1 and symbol in ranges:
            ranges[symbol] = ValueRanges(-(-int(whole.lower) // step), ranges[symbol].upper)
    return ranges


def _described(exported: ExportedProgram, axis: int, size: torch.SymInt, name: str) -> DynamicSize:
    bounds = bound_sympy(size.node.expr, _ranges(exported))
    lower, upper = bounds.lower, bounds.upper
    return DynamicSize(
        axis=axis,
        name=name,
        minimum=max(int(lower), 0) if lower > -_LARGEST else 0,
        maximum=int(upper) if upper < _LARGEST else None,
        step=step_and_symbol(size.node.expr)[0],
    )
