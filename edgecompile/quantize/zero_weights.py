"""Where a float program's weights are 0: there the integers are 0, and stay so whatever is done to them."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from edgecompile.graph_edit import operand
from edgecompile.quantize.layer_walk import changeable_layers
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.side_by_side import float_nodes


def zero_weights(exported: ExportedProgram, in_float: ExportedProgram) -> dict[str, torch.Tensor]:
    """Return by the name of a layer which of its weights are 0 in float, bool; no layers without zeros.

    Args:
        exported: The quantized program.
        in_float: The program that it was made from.
    """
    twins, constants = float_nodes(exported, in_float), constants_of(in_float)
    found = {}
    for layer in changeable_layers(exported):
        twin = twins.get(layer.compute)
        weight = None if twin is None else constants.get(operand(twin, 1).name)
        if weight is not None and bool((weight == 0).any()):
            found[layer.name] = weight == 0
    return found
