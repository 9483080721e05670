"""Signatures that look names up in tables made once.

torch.export makes the table of a program's weights anew for every question whether a node is a weight, and
XNNPACK's partitioner and node visitors ask that for every argument of every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import cached_property
from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import Node

from edgecompile.emitters._known_versions import is_known


class FixedSignature(ExportGraphSignature):
    """A signature for as long as nobody changes its lists."""

    @cached_property
    def inputs_to_parameters(self) -> Mapping[str, str]:
        """Return the parameters by their inputs' names."""
        return super().inputs_to_parameters

    @cached_property
    def inputs_to_buffers(self) -> Mapping[str, str]:
        """Return the buffers by their inputs' names."""
        return super().inputs_to_buffers

    @cached_property
    def inputs_to_lifted_tensor_constants(self) -> Mapping[str, str]:
        """Return the constants by their inputs' names."""
        return super().inputs_to_lifted_tensor_constants


def quick_partitioner(configs: list[Any] | None = None) -> Any:
    """Return XNNPACK's partitioner; it looks at a program under a fixed signature.

    Where everything can be delegated there is one partition. ExecuTorch finds it by merging, for which it has
    a set of all that follows each node: 20 GB for a network of 20 000 nodes.

    Args:
        configs: What can be delegated, one class an operator; None for all that ExecuTorch has.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir.backend.canonical_partitioners.pattern_op_partitioner import (
        generate_grouped_partitions_from_list_of_nodes,
    )
    from torch.fx.passes.infra.partitioner import Partition

    class Partitioner(XnnpackPartitioner):  # type: ignore[misc]
        def generate_partitions(self, ep: ExportedProgram) -> Any:
            before = fix_signature(ep)
            try:
                groups = self.get_matched_nodes_from_configs(ep)
                matched = {node for nodes in groups for node in nodes}
                _correct_tags(matched)
                in_order = [node for node in ep.graph.nodes if node in matched]
                if in_order and all(node.op != "call_function" or node in matched for node in ep.graph.nodes):
                    return [Partition(id=0, nodes=in_order)]
                return generate_grouped_partitions_from_list_of_nodes(ep.graph_module, groups)
            finally:
                ep._graph_signature = before

    return Partitioner(configs=configs)


def _correct_tags(matched: Set[Node]) -> None:
    """Let quantize and dequantize nodes at a delegate's borders convert, whatever their neighbour is.

    ExecuTorch tags those beside a matrix product as a part of it, before it knows that the product cannot be
    delegated, as one whose weight is computed. So tagged they would pass integers on as if they were floats.
    """
    from executorch.backends.xnnpack.utils.quant_utils import IS_IMPLICIT_Q_DQ_TAG, is_dequant, is_quant

    for node in matched:
        if is_dequant(node):
            is_inside = all(user in matched for user in node.users)
        else:
            is_inside = not is_quant(node) or node.args[0] in matched
        if not is_inside:
            node.meta.pop(IS_IMPLICIT_Q_DQ_TAG, None)


def fix_signature(program: ExportedProgram) -> ExportGraphSignature:
    """Give a program a fixed signature, and return the one that it had."""
    before: ExportGraphSignature = program.graph_signature
    if is_known("executorch", "torch"):
        program._graph_signature = FixedSignature(before.input_specs, before.output_specs)
    return before
