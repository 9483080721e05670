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
    names = _names_of(paths, user_input_names(exported))
    in_order = _numbered(len(names), user_input_names(exported))
    if names != in_order:
        signature.out_spec = _pytree.tree_structure(dict.fromkeys(names, 0))
    elif len(names) > 1 or not signature.out_spec.is_leaf():
        signature.out_spec = _pytree.tree_structure((0,) * len(names))
    if exported.example_inputs is not None:
        exported._example_inputs = (tuple(_pytree.tree_leaves(exported.example_inputs)), {})
    return exported


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


def _paths(spec: Any) -> list[tuple[Any, ...]]:
    """Return the keys and places that lead to each tensor."""
    places = _pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    return [path for path, _ in _pytree.tree_flatten_with_path(places)[0]]


def _names_of(paths: Sequence[tuple[Any, ...]], inputs: Sequence[str]) -> tuple[str, ...]:
    if len(paths) == 1 and all(isinstance(part, _pytree.SequenceKey) for part in paths[0]):
        return _numbered(1, inputs)
    return _unique([_name(path) for path in paths], inputs)


def _name(path: tuple[Any, ...]) -> str:
    keys = [getattr(part, "key", getattr(part, "idx", getattr(part, "name", ""))) for part in path]
    name = re.sub(r"\W", "_", "_".join(map(str, keys)), flags=re.ASCII)
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
