"""Express linear layers over the channels of pictures as 1x1 convolutions, so that these stay first."""

from __future__ import annotations

from typing import cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import Operator, ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, outcome

aten = torch.ops.aten

TO_CHANNELS_LAST, TO_CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
_WITH_CONSTANTS = (aten.mul.Tensor, aten.add.Tensor)
_ACTIVATIONS = (
    aten.relu.default,
    aten.hardtanh.default,
    aten.gelu.default,
    aten.silu.default,
    aten.mish.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.softplus.default,
)


class ConvolveLinears:
    """Rewrite linear layers between a norm over channels and the permute that puts these first again.

    Before: `layer_norm (N, H, W, C) -> linear(w (K, C)) -> gelu -> linear -> permute(0, 3, 1, 2)`
    After:  `layer_norm -> permute(0, 3, 1, 2) -> conv2d(w (K, C, 1, 1)) -> gelu -> conv2d`

    Before: `x (N, C, H, W) -> permute(0, 2, 3, 1) -> linear(w (K, C)) -> permute(0, 3, 1, 2)`
    After:  `x -> conv2d(w (K, C, 1, 1))`

    What stands around such a block are convolutions (Liu et al. 2022), and engines lay pictures out for
    those. What is left are permutes on both sides of a norm, which XNNPACK computes without them.

    Declines when something else reads a value between, or something else than linear layers, activations
    and constant factors and offsets of channels lies there: then the pictures have to be turned.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with convolutions for linear layers over pictures."""
        editor = ProgramEditor(program)
        for node in editor.calls(aten.permute.default):
            if not is_permute(node, TO_CHANNELS_FIRST):
                continue
            start, between = _before(editor, node)
            if any(item.target is aten.linear.default for item in between) and _is_worth_it(start):
                editor.replace(node, _with_channels_first(editor, node, start, between))
        editor.graph.eliminate_dead_code()
        if editor.rewrites:
            editor.allow_any_layout()  # a convolution's channels lie in another order than a permute's
        return outcome(editor)


def is_permute(node: Node, order: list[int]) -> bool:
    """Tell whether a node permutes four axes in an order."""
    if node.target is not aten.permute.default or len(shape_of(node)) != 4:
        return False
    return [axis % 4 for axis in cast("list[int]", node.args[1])] == order


def _is_worth_it(start: Node) -> bool:
    return start.target in _NORMS or is_permute(start, TO_CHANNELS_LAST)


def _before(editor: ProgramEditor, permute: Node) -> tuple[Node, list[Node]]:
    """Return the last node above a permute that it cannot pass, and those that it can, from above."""
    node, found = operand(permute), list[Node]()
    while len(node.users) == 1 and _can_pass(editor, node):
        found.insert(0, node)
        node = _source(editor, node)
    return node, found


def _can_pass(editor: ProgramEditor, node: Node) -> bool:
    if node.target is aten.linear.default:
        weight = editor.constant(node.args[1])
        return weight is not None and weight.dim() == 2
    if node.target in _WITH_CONSTANTS:
        constants = [editor.constant(item) for item in node.args]
        known = [value for value in constants if value is not None]
        return (
            len(known) == 1 and known[0].dim() <= 1 and not node.kwargs and _is_picture(_source(editor, node))
        )
    return node.target in _ACTIVATIONS


def _is_picture(node: object) -> bool:
    return isinstance(node, Node) and len(shape_of(node)) == 4


def _source(editor: ProgramEditor, node: Node) -> Node:
    """Return what a node reads that is no constant."""
    return operand(node, int(node.target in _WITH_CONSTANTS and editor.constant(node.args[0]) is not None))


def _with_channels_first(editor: ProgramEditor, before: Node, start: Node, between: list[Node]) -> Node:
    is_turned = is_permute(start, TO_CHANNELS_LAST)
    value = (
        operand(start) if is_turned else editor.insert(before, aten.permute.default, start, TO_CHANNELS_FIRST)
    )
    for node in between:
        if node.target is aten.linear.default:
            weight = cast("torch.Tensor", editor.constant(node.args[1]))
            kernel = editor.add_constant(f"{node.name}_weight", weight[:, :, None, None])
            value = editor.insert(before, aten.conv2d.default, value, kernel, *node.args[2:], like=node)
            continue
        target, rest = cast("Operator", node.target), list(node.args[1:])
        if target in _WITH_CONSTANTS:
            (given,) = (constant for item in node.args if (constant := editor.constant(item)) is not None)
            rest = [editor.add_constant(f"{node.name}_channels", given.reshape(-1, 1, 1))]
        value = editor.insert(before, target, value, *rest, keywords=node.kwargs, like=node)
    return value
