"""Express padding as `constant_pad_nd`, and fold it into the convolution or the maximum that reads it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand, per_axis, shape_of
from edgecompile.graph_pass import PassOutcome, outcome

aten = torch.ops.aten

# Convolutions whose padding is a word, "same" or "valid".
_WORDS: dict[Any, Any] = {aten.conv1d.padding: aten.conv1d.default, aten.conv2d.padding: aten.conv2d.default}

_END = 2**63 - 1
# Each row and column of padding before a maximum is a copy of the whole.
_MOST_COPIES = 4


class CanonicalizePadding:
    """Rewrite `pad`, and fold what a convolution can do itself.

    Before: `x (N, C, H, W) -> pad(1, 1, 1, 1) -> conv2d(padding 0)`
    After:  `x -> conv2d(padding 1)`

    Before: `pad(x, (0, 1, 0, 1), "constant")`
    After:  `constant_pad_nd(x, (0, 1, 0, 1), 0)`

    Before: `constant_pad_nd(x (N, C, H, W), (-1, 2))`
    After:  `constant_pad_nd(x[..., 1:], (0, 2))`

    Before: `conv2d(x, weight (K, C, 3, 3), padding="same")`
    After:  `conv2d(x, weight, padding=(1, 1))`

    Before: `x (N, C, H, W) -> constant_pad_nd(0, 1, 0, 1, -inf) -> max_pool2d(kernel (3, 3))`
    After:  `x -> cat([x, last column]) -> cat([., last row]) -> max_pool2d`: a window that reaches beyond an
    end holds that end, so its largest value stays; the same margins on all sides are the pooling's own

    Declines when the padding reflects, replicates or wraps around: `concatenate-ends` is for that.
    Asymmetric padding stays a node of its own; emitters whose format allows it fold it further.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with canonical padding."""
        editor = ProgramEditor(program)
        for node in editor.calls(aten.pad.default):
            mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
            if mode != "constant":
                continue
            value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
            new = editor.insert(node, aten.constant_pad_nd.default, node.args[0], node.args[1], value or 0.0)
            editor.replace(node, new)
        for node in editor.calls(aten.constant_pad_nd.default):
            _crop(editor, node)
        for node in editor.calls(*_WORDS):
            _pad_with_numbers(editor, node)
        for node in editor.calls(aten.constant_pad_nd.default):
            _fold_into_convolutions(editor, node)
        for node in editor.calls(aten.max_pool2d.default):
            _fold_into_maximum(editor, node)
        editor.graph.eliminate_dead_code()
        return outcome(editor)


def _crop(editor: ProgramEditor, node: Node) -> None:
    """Rewrite padding by less than nothing as slices, which engines have."""
    value, pads = operand(node), cast("list[Any]", node.args[1])
    if not any(isinstance(pad, int) and pad < 0 for pad in pads):
        return
    for place, (near, far) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
        ends = [-near if near < 0 else 0, far if far < 0 else _END]
        if ends != [0, _END]:
            value = editor.insert(node, aten.slice.Tensor, value, len(shape_of(node)) - 1 - place, *ends)
    kept = [max(pad, 0) for pad in pads]
    rest = (value, kept, *node.args[2:])
    editor.replace(node, editor.insert(node, aten.constant_pad_nd.default, *rest) if any(kept) else value)


def _fold_into_convolutions(editor: ProgramEditor, node: Node) -> None:
    pads = node.args[1]
    value = node.args[2] if len(node.args) > 2 else 0.0
    assert isinstance(pads, list | tuple)
    if value != 0 or len(pads) != 4:
        return
    if not all(isinstance(pad, int) for pad in pads):
        return  # a dynamic size
    left, right, top, bottom = (cast("int", pad) for pad in pads)
    if left != right or top != bottom or min(left, top) < 0:
        return
    if not all(_takes_padding(user, node) for user in node.users):
        return
    for conv in list(node.users):
        padding = _padding(conv)
        defaults = [None, [1, 1], [0, 0]]  # bias, stride, padding
        arguments = [*conv.args, *defaults[len(conv.args) - 2 :]]
        arguments[0] = node.args[0]
        arguments[4] = [padding[0] + top, padding[1] + left]
        conv.args = tuple(arguments)
    editor.graph.erase_node(node)
    editor.rewrites += 1


def _takes_padding(conv: Node, pad: Node) -> bool:
    return conv.target is aten.conv2d.default and conv.args[0] is pad and not conv.kwargs


def _fold_into_maximum(editor: ProgramEditor, pool: Node) -> None:
    """Rewrite padding with less than any value before max pooling: integers have no such value."""
    pad = operand(pool)
    if pad.target is not aten.constant_pad_nd.default or len(shape_of(pad)) != 4:
        return
    if len(pool.args) > 3 or pool.kwargs:
        return  # with padding or dilation of its own
    source, given = operand(pad), cast("list[int]", pad.args[1])
    value = cast("float", pad.args[2]) if len(pad.args) > 2 else 0.0
    if value > torch.finfo(torch.float32).min or len(given) > 4:
        return
    margins = [*given, 0, 0][:4]
    if not all(isinstance(size, int) and size >= 0 for size in (*shape_of(source)[2:], *margins)):
        return  # a dynamic size, or cropping
    kernel = per_axis(pool.args[1], 2)
    stride = per_axis(pool.args[2], 2) if len(pool.args) > 2 and pool.args[2] else kernel
    rows, columns = margins[2:], margins[:2]
    if all(near == far <= size // 2 for (near, far), size in zip((rows, columns), kernel, strict=True)):
        folded = editor.insert(pool, aten.max_pool2d.default, source, kernel, stride, [rows[0], columns[0]])
        editor.replace(pool, folded)
        return
    for axis, (near, far) in ((2, rows), (3, columns)):
        size, count = (cast("int", shape_of(node)[axis]) for node in (source, pool))
        last = (count - 1) * stride[axis - 2]  # where the last window starts
        if near >= kernel[axis - 2] or last >= near + size or near + far > _MOST_COPIES:
            return  # a window of padding alone, or many copies
    for axis, (near, far) in ((2, rows), (3, columns)):
        source = _with_ends_repeated(editor, pool, source, axis, (near, far))
    pool.replace_input_with(pad, source)
    editor.rewrites += 1


def _with_ends_repeated(
    editor: ProgramEditor, before: Node, source: Node, axis: int, copies: tuple[int, int]
) -> Node:
    size = cast("int", shape_of(source)[axis])
    whole = source
    for at in [0] * copies[0] + [size - 1] * copies[1]:
        end = editor.insert(before, aten.slice.Tensor, whole, axis, at, at + 1)
        parts = [source, end] if at else [end, source]
        source = editor.insert(before, aten.cat.default, parts, axis)
    return source


def _pad_with_numbers(editor: ProgramEditor, conv: Node) -> None:
    """Rewrite padding="same" or "valid"; where the ends differ, PyTorch pads the far one more."""
    source, weight = conv.args[:2]
    assert isinstance(weight, Node)
    kernel = shape_of(weight)[2:]
    defaults: list[Any] = [None, [1] * len(kernel), "valid", [1] * len(kernel), 1]
    arguments: list[Any] = [*conv.args[2:], *defaults[len(conv.args) - 2 :]]
    bias, stride, padding, dilation, groups = arguments
    total = [0] * len(kernel)
    if padding == "same":
        total = [int(step) * (int(size) - 1) for size, step in zip(kernel, dilation, strict=True)]
    near = [size // 2 for size in total]
    if any(size % 2 for size in total):
        ends = zip(reversed(near), reversed(total), strict=True)
        pads = [end for first, both in ends for end in (first, both - first)]
        source = editor.insert(conv, aten.constant_pad_nd.default, source, pads, 0.0)
        near = [0] * len(kernel)
    numbers = (source, weight, bias, stride, near, dilation, groups)
    editor.replace(conv, editor.insert(conv, _WORDS[conv.target], *numbers))


def _padding(conv: Node) -> tuple[int, int]:
    padding = conv.args[4] if len(conv.args) > 4 else 0
    if isinstance(padding, int):
        return padding, padding
    assert isinstance(padding, list | tuple)
    rows, columns = (padding[0], padding[-1])
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    return rows, columns
