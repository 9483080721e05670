"""The zeros of layers, in float and in the program that the artifacts are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import operand, source_line
from edgecompile.pruning.channel_groups import layer_name
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.sparsify import SparseLayers
from edgecompile.pruning.sparsity_report import SparseLayer
from edgecompile.quantize.layers import constants_of


def zero_rows(layers: SparseLayers, zeroed: ExportedProgram) -> tuple[SparseLayer, ...]:
    """Return one row a layer that can have zeros.

    Args:
        layers: Of the program before.
        zeroed: The program with zeros.
    """
    constants = constants_of(zeroed)
    by_name = {node.name: node for node in _layers_of(zeroed)}
    return tuple(
        SparseLayer(
            name=layer_name(node),
            where=source_line(node),
            shape=tuple(weight.shape),
            weights=weight.numel(),
            zeros=_zeros(constants[operand(by_name[node.name], 1).name]),
            found=None,
        )
        for node, weight in layers.weights.items()
    )


def with_found(
    rows: Sequence[SparseLayer], exported: ExportedProgram, in_float: ExportedProgram
) -> tuple[SparseLayer, ...]:
    """Return rows with the zeros of a program after passes; its layers are known by name.

    A module that is called several times has several layers of its name, in order.

    Args:
        rows: Of the program before the passes.
        exported: The program that artifacts are made from, quantized or not.
        in_float: The one after passes that it was made from, which knows its layers' names.
    """
    own_layers, twins = _layers_of(exported), _layers_of(in_float)
    if [node.target for node in own_layers] != [node.target for node in twins]:
        twins = own_layers
    constants = constants_of(exported)
    known: dict[str, list[torch.Tensor]] = {}
    for node, twin in zip(own_layers, twins, strict=True):
        weight = _constant_behind(node.args[1])
        if weight is not None and weight.name in constants:
            known.setdefault(layer_name(twin), []).append(constants[weight.name])
    names, found = [row.name for row in rows], list[SparseLayer]()
    for index, row in enumerate(rows):
        own = known.get(row.name, [])
        is_whole = len(own) == names.count(row.name)
        value = own[names[:index].count(row.name)] if is_whole else None
        is_same = value is not None and value.numel() == row.weights
        found.append(replace(row, found=_zeros(value) if value is not None and is_same else None))
    return tuple(found)


def _layers_of(exported: ExportedProgram) -> list[Node]:
    return [node for node in exported.graph.nodes if node.target in LAYERS]


def _constant_behind(node: object) -> Node | None:
    """Return what dequantizing and views make a weight of."""
    while isinstance(node, Node) and node.op == "call_function" and node.args:
        node = node.args[0]
    return node if isinstance(node, Node) else None


def _zeros(weight: torch.Tensor) -> int:
    return int((weight == 0).sum())
