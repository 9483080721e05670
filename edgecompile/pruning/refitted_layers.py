"""Layers of a program with other weights and biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample, spread
from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.quantize.node_values import peak_bytes

# The values of all samples may take so much.
_ROOM_BYTES = 3 << 30


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """A layer's weight, and the bias that goes with it."""

    weight: torch.Tensor
    bias: torch.Tensor


def affordable(samples: Sequence[Sample], *programs: ExportedProgram) -> Sequence[Sample]:
    """Return as many samples, evenly spaced, as can be held with the values that programs still need."""
    each = sum(peak_bytes(program, samples[0].inputs) for program in programs)
    return spread(samples, max(1, _ROOM_BYTES // max(each, 1)))


def calls_of(exported: ExportedProgram) -> list[Node]:
    """Return what a program calls, in order."""
    return [node for node in exported.graph.nodes if node.op == "call_function"]


def bias_of(node: Node, known: Mapping[Node, Any]) -> torch.Tensor | None:
    """Return a layer's bias; None where it has none."""
    return known[operand(node, 2)] if len(node.args) > 2 and isinstance(node.args[2], Node) else None


def given_by(
    node: Node, known: Mapping[Node, Any], weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what a layer gives with another weight and bias."""
    assert callable(node.target)
    return node.target(known[operand(node)], weight, bias, *node.args[3:], **node.kwargs)  # type: ignore[no-any-return]


def with_layers(exported: ExportedProgram, refitted: Mapping[str, Refitted]) -> ExportedProgram:
    """Return a program with other weights and biases of layers, by their names."""
    editor = ProgramEditor(exported)
    for node in editor.calls(*LAYERS):
        found = refitted.get(node.name)
        if found is None:
            continue
        editor.set_constant(operand(node, 1), found.weight)
        bias = editor.add_constant(f"{node.name}_bias", found.bias)
        node.args = (*node.args[:2], bias, *node.args[3:])
    return editor.finish()
