"""Which operators compute in float between a dequantize and a quantize, in the program of a bundle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torch.fx import Node

from edgecompile.artifact import CONSTANTS, PROGRAM, load_bundle
from edgecompile.graph_edit import operator_name
from edgecompile.program_file import read_program
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, computing_nodes, quantized_layers


def pairs_around(path: Path) -> Counter[str]:
    """Return, by operator, how many compute in float between a dequantize and a quantize."""
    bundle = load_bundle(path)
    program = read_program(bundle.read(PROGRAM), bundle.read(CONSTANTS), path / PROGRAM)
    inside = {node for layer in quantized_layers(program) for node in layer.nodes}
    found: Counter[str] = Counter()
    for node in computing_nodes(program.graph):
        if node in inside or not any(user.target is QUANTIZE for user in node.users):
            continue
        computed = [item for item in node.all_input_nodes if item.op == "call_function"]
        if computed and all(isinstance(item, Node) and item.target is DEQUANTIZE for item in computed):
            found[operator_name(node)] += 1
    return found
