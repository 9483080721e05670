"""The signature of a captured program: inputs and outputs in a row, each with a name that a user recognises.

An artifact takes and gives tensors in a row. So the structure that a model has around them (dictionaries,
tuples, a library's classes) becomes names, and is kept no longer: inputs are named by torch.export after the
arguments of `forward` and the keys in them, outputs here after the keys that lead to them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch.export import ExportedProgram
from torch.utils import _pytree

from edgecompile.graph_edit import output_nodes, user_input_names


def flatten_signature(exported: ExportedProgram, returned: Sequence[bool]) -> ExportedProgram:
    """Return a program with its inputs in a row, and its outputs in a row or by their names.

    Args:
        exported: The program; what the model returned that is no tensor is gone.
        returned: Of all that the model returned, which is a tensor.

    Changes:
        The signature of `exported`'s own call, in place: the graph is flat already.
    """
    signature = exported.module_call_graph[0].signature
    assert signature is not None
    paths = [path for path, is_there in zip(_paths(signature.out_spec), returned, strict=True) if is_there]
    count = len(user_input_names(exported))
    signature.in_spec = _pytree.tree_structure((tuple(range(count)), {}))
    signature.forward_arg_names = list(user_input_names(exported))
    is_alone = signature.out_spec.is_leaf()
    name_outputs(exported, _names_of(paths, user_input_names(exported)), is_alone=is_alone)
    if exported.example_inputs is not None:
        exported._example_inputs = (tuple(_pytree.tree_leaves(exported.example_inputs)), {})
    return exported


def name_outputs(exported: ExportedProgram, names: Sequence[str], *, is_alone: bool = False) -> None:
    """Let a program give its outputs by names, in place; in a row where these are but numbers.

    Args:
        exported: The program.
        names: Of its outputs, in order.
        is_alone: Give the one output as it is.
    """
    signature = exported.module_call_graph[0].signature
    assert signature is not None
    if len(names) != len(output_nodes(exported.graph)) or len(set(names)) != len(names):
        raise ValueError(f"{list(names)} are not the outputs' names")
    if tuple(names) != _numbered(len(names), user_input_names(exported)):
        signature.out_spec = _pytree.tree_structure(dict.fromkeys(names, 0))
    elif not is_alone:
        signature.out_spec = _pytree.tree_structure((0,) * len(names))


def output_names(exported: ExportedProgram) -> tuple[str, ...]:
    """Return the outputs' names, in order.

    An output of a dictionary is called by its key, one inside another structure by the keys and places that
    lead to it; others are `output`, or `output_0`, `output_1`, ...
    """
    signature = exported.module_call_graph[0].signature
    spec = None if signature is None else signature.out_spec
    count = len(output_nodes(exported.graph))
    if spec is not None and spec.type is dict and len(spec.context) == count:
        return tuple(spec.context)
    return _numbered(count, user_input_names(exported))


def _numbered(count: int, inputs: Sequence[str]) -> tuple[str, ...]:
    if count == 1 and "output" not in inputs:
        return ("output",)
    return _unique([f"output_{index}" for index in range(count)], inputs)


def _paths(spec: Any) -> list[tuple[str | int, ...]]:
    """Return the keys and places that lead to each tensor."""
    if spec.is_leaf():
        return [()]
    children = spec.children()
    keys = _keys(spec.context, len(children))
    return [(key, *path) for key, child in zip(keys, children, strict=True) for path in _paths(child)]


def _keys(context: Any, count: int) -> Sequence[str | int]:
    """Return the keys of a structure's parts, else their places.

    What a class remembers to be made anew is its own; those of dictionaries, data classes and libraries'
    outputs remember the keys.
    """
    if hasattr(context, "_fields"):  # a named tuple remembers its class
        return tuple(context._fields)
    # A defaultdict remembers what makes its values too; a data class its fields that are None.
    for keys in (context, *context) if isinstance(context, list | tuple) else ():
        if (
            isinstance(keys, list | tuple)
            and len(keys) == count
            and all(isinstance(key, str | int) for key in keys)
        ):
            return tuple(keys)
    return range(count)


def _names_of(paths: Sequence[tuple[str | int, ...]], inputs: Sequence[str]) -> tuple[str, ...]:
    if len(paths) == 1 and all(isinstance(part, int) for part in paths[0]):
        return _numbered(1, inputs)
    return _unique([_name(path) for path in paths], inputs)


def _name(path: tuple[str | int, ...]) -> str:
    name = re.sub(r"\W", "_", "_".join(map(str, path)), flags=re.ASCII)
    return name if re.match(r"[A-Za-z]", name) else f"output_{name}"


def _unique(names: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Return names that no input and no other output has: formats keep them in one table."""
    found: list[str] = []
    for name in names:
        own, number = name, 0
        while own in found or own in taken:
            number += 1
            own = f"{name}_output" if number == 1 else f"{name}_output_{number}"
        found.append(own)
    return tuple(found)
