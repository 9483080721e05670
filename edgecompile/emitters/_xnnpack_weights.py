"""Layers with int8 weights and float activations, in the form for which XNNPACK has a kernel.

XNNPACK's fully connected operator takes float32 inputs with int8 weights (`f32_qc8w`), but ExecuTorch's
partitioner offers it none: it wants quantized inputs wherever a weight is quantized. And in the version
inside ExecuTorch 1.5.1 that kernel multiplies the bias by the weight's scale as well: the bias is added
by an operator of its own instead. Convolutions have no such kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import ProgramEditor
from edgecompile.program import Declined, Reason
from edgecompile.quantize.layers import DEQUANTIZE_PER_CHANNEL

if TYPE_CHECKING:
    from executorch.backends.xnnpack.partition.config.xnnpack_config import XNNPartitionerConfig

aten = torch.ops.aten


def for_float_activations(exported: ExportedProgram) -> tuple[ExportedProgram, tuple[Declined, ...]]:
    """Return a weight-only program as XNNPACK can run it, and the layers whose weights are stored in float.

    Before: linear(x, dequantize(w), b)        After: linear(x, dequantize(w)) + b
    Before: conv2d(x, dequantize(w), b)        After: conv2d(x, w_float, b), the same values
    """
    editor = ProgramEditor(exported)
    declined = []
    for weight in editor.calls(DEQUANTIZE_PER_CHANNEL):
        for reader in list(weight.users):
            if reader.target is aten.linear.default:
                _separate_bias(editor, reader)
                continue
            reader.update_arg(1, editor.add_constant(f"{reader.name}_weight", _values(editor, weight)))
            reason = Reason(
                "its quantized weight is stored in float: XNNPACK has no convolution of float activations "
                "and integer weights",
                change="build with the precision int8",
            )
            declined.append(decline(reader, reason))
    editor.graph.eliminate_dead_code()
    return editor.finish(), tuple(declined)


def _separate_bias(editor: ProgramEditor, layer: Node) -> None:
    if len(layer.args) < 3 or layer.args[2] is None:
        return
    product = editor.insert(layer, aten.linear.default, *layer.args[:2])
    editor.replace(layer, editor.insert(layer, aten.add.Tensor, product, layer.args[2]))


def _values(editor: ProgramEditor, weight: Node) -> torch.Tensor:
    constants: list[Any] = [editor.constant(argument) for argument in weight.args[:3]]
    values: torch.Tensor = DEQUANTIZE_PER_CHANNEL(*constants, *weight.args[3:])
    return values


def configs_with_float_activations() -> list[type[XNNPartitionerConfig]]:
    """Return the partitioner's rules, with one that lets inputs be in float where weights are not."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
    from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
    from executorch.backends.xnnpack.utils.quant_utils import is_dequant, tag_as_implicit_q_dq

    class FloatInputLinearConfig(LinearConfig):  # type: ignore[misc]
        def get_deps(self, node: Node, ep: ExportedProgram) -> tuple[bool, list[Node]]:
            """Return whether a linear layer can be delegated, and the nodes that it takes along."""
            value, weight = node.args[:2]
            if not is_dequant(weight) or is_dequant(value):
                stock: tuple[bool, list[Node]] = super().get_deps(node, ep)
                return stock
            tag_as_implicit_q_dq(weight)
            assert isinstance(weight, Node)
            return True, [weight, *weight.all_input_nodes]

    return [FloatInputLinearConfig if rule is LinearConfig else rule for rule in ALL_PARTITIONER_CONFIGS]
