"""Gives operators between integers dequantize nodes that no operator in float reads.

ExecuTorch takes an operator whose operands are dequantized, and whose result is quantized, for one between
integers, and its dequantize nodes for a part of it. What reads the same node in float then reads integers.
"""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE

aten = torch.ops.aten
_FUSED = (aten.relu.default, aten.hardtanh.default, aten.clamp.default)


def with_own_dequantize(exported: ExportedProgram) -> ExportedProgram:
    """Return the program in which each operator between integers has its own dequantize nodes.

    Before: `dequantize -> sub(., .) -> quantize`, `-> mul(., 2)`
    After:  `dequantize -> sub(., .) -> quantize`, `dequantize -> mul(., 2)`
    """
    shared = [
        node
        for node in exported.graph.find_nodes(op="call_function", target=DEQUANTIZE)
        if len(node.users) > 1
    ]
    if not any(_is_quantized(reader) for node in shared for reader in node.users):
        return exported
    editor = ProgramEditor(exported)
    for node in editor.calls(DEQUANTIZE):
        for reader in [reader for reader in node.users if _is_quantized(reader)]:
            if len(node.users) > 1:
                reader.replace_input_with(node, editor.insert(reader, DEQUANTIZE, *node.args))
    return editor.finish()


def _is_quantized(node: Node) -> bool:
    """Tell whether what a node gives is quantized, and so may be computed with integers."""
    readers = list(node.users)
    if len(readers) == 1 and readers[0].target in _FUSED:
        readers = list(readers[0].users)
    return any(reader.target is QUANTIZE for reader in readers)
