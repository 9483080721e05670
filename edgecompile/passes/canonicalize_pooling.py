"""Express pooling as what engines have: over two axes, with given windows, or a mean with keepdim."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.decline import decline
from edgecompile.graph_edit import (
    ProgramEditor,
    operand,
    operator_name,
    per_axis,
    reads_first_alone,
    shape_of,
)
from edgecompile.graph_pass import PassOutcome, outcome
from edgecompile.passes.canonicalize_views import insert_view, static_sizes
from edgecompile.program import Reason

aten = torch.ops.aten

_END = 2**63 - 1  # of an axis, however long
# Pooling along one axis: what pools pictures alike, and what their one row has for each argument.
_ALONG_ONE_AXIS: dict[Any, tuple[Any, tuple[int, ...]]] = {
    aten.max_pool1d.default: (aten.max_pool2d.default, (1, 1, 0, 1)),
    aten.avg_pool1d.default: (aten.avg_pool2d.default, (1, 1, 0)),
    aten.adaptive_avg_pool1d.default: (aten.adaptive_avg_pool2d.default, (1,)),
}
_NO_BATCH = Reason("its input has no batch dimension", change="give the model inputs with a batch of 1")


class CanonicalizePooling:
    """Rewrite spatial means, adaptive pooling, and pooling along one axis.

    Before: `max_pool1d(x (N, C, L), kernel 4, stride 2)`
    After:  `x -> view (N, C, 1, L) -> max_pool2d(., kernel (1, 4), stride (1, 2)) -> view`

    Before: `mean(x (N, C, H, W), [-1, -2]) -> (N, C)`
    After:  `mean(x, [2, 3], keepdim=True) -> view (N, C)`

    Before: `adaptive_avg_pool2d(x (N, C, H, W), (1, 1))`
    After:  `mean(x, [2, 3], keepdim=True)`

    Before: `adaptive_avg_pool2d(x (N, C, 8, 8), (2, 2))`
    After:  `avg_pool2d(x, kernel (4, 4), stride (4, 4))`

    Before: `adaptive_max_pool2d(x (N, C, 8, 8), (1, 2)) -> [0]`
    After:  `max_pool2d(x, kernel (8, 4), stride (8, 4))`

    Before: `avg_pool2d(x (N, C, 8, 8), kernel (1, 1), stride (2, 2))`
    After:  `x[:, :, ::2, ::2]`

    Before: `avg_pool2d(x (N, C, H, W), kernel (2, 2), divisor_override=1)`
    After:  `mul(avg_pool2d(x, kernel (2, 2)), 4)`

    Before: `avg_pool2d(x (N, C, 4, 4), kernel (3, 3), stride (2, 2), ceil_mode=True)`
    After:  `x -> constant_pad_nd (0, 1, 0, 1) -> avg_pool2d(., (3, 3), (2, 2)) -> mul(shares (2, 2))`

    Declines when adaptive pooling's output size does not divide its input size (its windows overlap), when
    the input has no batch dimension, and when windows may reach beyond the end of a dynamic size.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with canonical pooling."""
        editor = ProgramEditor(program)
        declined = []
        for node in editor.calls(*_ALONG_ONE_AXIS):
            reason = _replace_one_axis(editor, node)
            if reason is not None:
                declined.append(decline(node, reason, what=operator_name(node)))
        for node in editor.calls(aten.mean.dim):
            if _is_spatial_mean(node):
                _keep_dimensions(editor, node)
        for node in editor.calls(aten.adaptive_avg_pool2d.default):
            reason = _replace_adaptive(editor, node)
            if reason is not None:
                declined.append(decline(node, reason, what="adaptive_avg_pool2d"))
        for node in editor.calls(aten.adaptive_max_pool2d.default):
            reason = _replace_adaptive_maximum(editor, node)
            if reason is not None:
                declined.append(decline(node, reason, what="adaptive_max_pool2d"))
        for node in editor.calls(aten.avg_pool2d.default):
            reason = _divide_apart(editor, node)
            if reason is not None:
                declined.append(decline(node, reason, what="avg_pool2d"))
        for node in editor.calls(aten.avg_pool2d.default, aten.max_pool2d.default):
            if _pools_one(node) and not editor.is_user_input(operand(node)):  # an output must not be an input
                _replace_by_slices(editor, node)
        editor.graph.eliminate_dead_code()
        return outcome(editor, declined)


def _replace_one_axis(editor: ProgramEditor, node: Node) -> str | None:
    given, result = static_sizes(operand(node)), static_sizes(node)
    if given is None or result is None:
        return Reason("more than one size is dynamic", change="fix all sizes but the batch")
    if len(given) != 3:
        return _NO_BATCH
    target, row = _ALONG_ONE_AXIS[node.target]
    arguments: list[Any] = list(node.args[1:])
    for index, (own, argument) in enumerate(zip(row, arguments, strict=False)):
        if argument != []:  # a stride that is the window
            arguments[index] = [own, *per_axis(argument, 1)]
    picture = insert_view(editor, node, operand(node), [*given[:2], 1, given[2]])
    pooled = editor.insert(node, target, picture, *arguments)
    editor.replace(node, insert_view(editor, node, pooled, result))
    return None


def _is_spatial_mean(node: Node) -> bool:
    source, axes = node.args[0], node.args[1]
    if not isinstance(source, Node) or not isinstance(axes, list | tuple) or "dtype" in node.kwargs:
        return False
    is_canonical = list(axes) == [2, 3] and bool(node.args[2:]) and node.args[2] is True
    return (
        len(shape_of(source)) == 4 and {cast("int", axis) % 4 for axis in axes} == {2, 3} and not is_canonical
    )


def _keep_dimensions(editor: ProgramEditor, node: Node) -> None:
    sizes = static_sizes(node)
    if sizes is None:
        return
    mean = editor.insert(node, aten.mean.dim, node.args[0], [2, 3], True)
    keepdim = node.args[2:] and node.args[2]
    editor.replace(node, mean if keepdim else insert_view(editor, node, mean, sizes))


def _divide_apart(editor: ProgramEditor, node: Node) -> str | None:
    """Take what windows are divided by out of pooling, where it is not their size: engines differ there."""
    kernel, stride, padding, ceil_mode, counts_padding, divisor = _average_arguments(node)
    if not ceil_mode and divisor is None:
        return None
    value = operand(node)
    sizes, windows = shape_of(value)[-2:], shape_of(node)[-2:]
    if not all(isinstance(size, int) for size in sizes):
        return Reason(
            "its windows may reach beyond the end of a dynamic size", change="leave out `ceil_mode`"
        )
    sides = list(zip(windows, stride, kernel, sizes, padding, strict=True))
    beyond = [(count - 1) * step + length - size - pad for count, step, length, size, pad in sides]
    if divisor is None and all(end <= pad for end, pad in zip(beyond, padding, strict=True)):
        editor.replace(
            node, editor.insert(node, aten.avg_pool2d.default, *node.args[:4], False, counts_padding)
        )
        return None
    if any(end > 0 for end in (*beyond, *padding)):  # zeros there add nothing to a sum
        around = [padding[1], max(beyond[1], 0), padding[0], max(beyond[0], 0)]
        value = editor.insert(node, aten.constant_pad_nd.default, value, around, 0.0)
    pooled = editor.insert(node, aten.avg_pool2d.default, value, kernel, stride)
    if divisor is not None:
        factor: Any = math.prod(kernel) / divisor
    else:
        shares = [_shares(side, counts_padding=counts_padding) for side in sides]
        factor = editor.add_constant(f"{node.name}_shares", torch.outer(*shares)[None, None])
    editor.replace(node, pooled if factor == 1 else editor.insert(node, aten.mul.Tensor, pooled, factor))
    return None


def _average_arguments(node: Node) -> tuple[list[int], list[int], list[int], bool, bool, int | None]:
    given: list[Any] = [*node.args[1:], *(None, [], 0, False, True, None)[len(node.args) - 1 :]]
    kernel, stride, padding = (per_axis(item, 2) for item in (given[0], given[1] or given[0], given[2]))
    return kernel, stride, padding, *given[3:]


def _shares(side: tuple[Any, ...], *, counts_padding: bool) -> torch.Tensor:
    """Return of each window along an axis, (count,), its whole length by the part that is counted."""
    count, step, length, size, pad = side
    starts = torch.arange(count) * step - pad
    first, last = (-pad, size + pad) if counts_padding else (0, size)
    shares: torch.Tensor = length / ((starts + length).clamp(max=last) - starts.clamp(min=first))
    return shares


def _pools_one(node: Node) -> bool:
    """Tell whether each window is one value, which engines refuse."""
    kernel, padding = node.args[1], node.args[3] if len(node.args) > 3 else 0
    return per_axis(kernel, 2) == [1, 1] and per_axis(padding, 2) == [0, 0] and len(shape_of(node)) == 4


def _replace_by_slices(editor: ProgramEditor, node: Node) -> None:
    stride = node.args[2] if len(node.args) > 2 and node.args[2] else 1
    value = operand(node)
    for axis, step in zip((2, 3), per_axis(stride, 2), strict=True):
        if step != 1:
            value = editor.insert(node, aten.slice.Tensor, value, axis, 0, _END, step)
    editor.replace(node, value)


def _replace_adaptive(editor: ProgramEditor, node: Node) -> str | None:
    if tuple(cast("list[int]", node.args[1])) == (1, 1) and len(shape_of(operand(node))) == 4:
        editor.replace(node, editor.insert(node, aten.mean.dim, operand(node), [2, 3], True))
        return None
    kernel = _kernel(node)
    if isinstance(kernel, str):
        return kernel
    editor.replace(node, editor.insert(node, aten.avg_pool2d.default, operand(node), kernel, kernel))
    return None


def _replace_adaptive_maximum(editor: ProgramEditor, node: Node) -> str | None:
    kernel = _kernel(node)
    if isinstance(kernel, str):
        return kernel
    if not reads_first_alone(node):
        return Reason("where the maxima are is read too", change="read the maxima alone")
    for user in [user for user in node.users if user.users]:
        editor.replace(user, editor.insert(node, aten.max_pool2d.default, operand(node), kernel, kernel))
    return None


def _kernel(node: Node) -> list[int] | str:
    """Return the window that adaptive pooling comes down to, or why there is none."""
    source, wanted = operand(node), cast("list[int | None]", node.args[1])
    if len(shape_of(source)) != 4:
        return _NO_BATCH
    given = shape_of(source)[2:]
    if not all(isinstance(size, int) for size in given):
        return Reason(
            "its input size is dynamic", change="pool to 1x1, or export with a fixed height and width"
        )
    height, width = cast("tuple[int, int]", given)
    rows, columns = (
        size if want is None else want for size, want in zip((height, width), wanted, strict=True)
    )
    if height % rows or width % columns:
        return Reason(
            f"its {rows}x{columns} output does not divide its {height}x{width} input: the windows overlap",
            change="pool to a size that divides the input's, or choose another size of the model's input",
        )
    return [height // rows, width // columns]
