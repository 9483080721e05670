"""Recognize layer norm and RMS norm that are written out, and instance norm as a group norm."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn import functional

from edgecompile.graph_edit import ProgramEditor, operand, shape_of
from edgecompile.graph_pass import PassOutcome, rewrite_calls
from edgecompile.graph_region import evaluated, numbers_in, recognized, regions_before
from edgecompile.program import Reason

aten = torch.ops.aten

_REDUCTIONS = (aten.mean.dim, aten.var.dim, aten.var.correction, aten.sum.dim_IntList)
_PARTS = (
    *_REDUCTIONS,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.pow.Tensor_Scalar,
    aten.square.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
)
_ENDS = (aten.mul.Tensor, aten.div.Tensor)
# The least rows that tell norms apart: of ordinary values, and of values so small that epsilon counts.
_SCALES = (1.0, 1e-2, 1e-4)
_TOLERANCE = 1e-4


class RecognizeNorms:
    """Rewrite a normalization over the last axis from its parts as the operator that engines have.

    Before: `d = x (N, L, C) - mean(x, -1)`, `d * rsqrt(mean(d * d, -1) + eps) -> mul(weight) -> add(bias)`
    After:  `layer_norm(x, [C], weight, bias, eps)`

    Before: `x * rsqrt(mean(x * x, -1) + eps) -> mul(weight)`
    After:  `rms_norm(x, [C], weight, eps)`

    Before: `instance_norm(x (N, C, H, W), weight, bias, eps)`
    After:  `group_norm(x, C, weight, bias, eps)`

    Whatever the parts are: what they compute is evaluated, and compared with both (Ba et al. 2016; Zhang and
    Sennrich 2019).

    Declines when something else reads a part of it, or the axis has a dynamic size; and instance norms that
    use running statistics.
    """

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the program with norms in one operator each."""
        # A group norm keeps the order in memory, an instance norm does not.
        instances = rewrite_calls(program, {aten.instance_norm.default: _as_groups}, changes_layout=True)
        found = recognized(instances.program, _ENDS, _recognize)
        return PassOutcome(
            program=found.program,
            rewrites=instances.rewrites + found.rewrites,
            declined=instances.declined + found.declined,
        )


def _as_groups(editor: ProgramEditor, node: Node) -> Node | str:
    """Return an instance norm as a group norm with one channel a group (Ulyanov 2016; Wu and He 2018)."""
    source, weight, bias, _, _, uses_input, _, eps = node.args[:8]
    channels = shape_of(operand(node))[1]
    if not isinstance(channels, int):
        return Reason("the number of its channels is dynamic", change="fix it")
    if not uses_input:
        return Reason(
            "it uses running statistics", change="use a batch norm, which is the same and can be folded"
        )
    return editor.insert(node, aten.group_norm.default, source, channels, weight, bias, eps)


def _recognize(editor: ProgramEditor, node: Node) -> None:
    for source, region in regions_before(node, _PARTS):
        if not any(part.target in _REDUCTIONS for part in region) or not _is_of_rows(source, node):
            continue
        width = shape_of(source)[-1]
        assert isinstance(width, int)
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn([*[2] * (len(shape_of(source)) - 1), width], generator=generator) + 0.5
        found = [evaluated(source, region, rows * scale) for scale in _SCALES]
        for eps in (item for item in numbers_in(region) if 0 < item < 1e-2):
            if _all_close(
                found, [functional.layer_norm(rows * scale, [width], eps=eps) for scale in _SCALES]
            ):
                _replace(editor, node, aten.layer_norm.default, source, width, eps)
                return
            if _all_close(found, [functional.rms_norm(rows * scale, [width], eps=eps) for scale in _SCALES]):
                _replace(editor, node, aten.rms_norm.default, source, width, eps)
                return


def _is_of_rows(source: Node, node: Node) -> bool:
    value = source.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or value.dim() < 2:
        return False
    return value.shape == node.meta["val"].shape and isinstance(value.shape[-1], int) and value.shape[-1] > 1


def _all_close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(
        one.shape == other.shape and torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE)
        for one, other in zip(found, wanted, strict=True)
    )


def _replace(  # noqa: PLR0917
    editor: ProgramEditor, node: Node, target: torch._ops.OpOverload, source: Node, width: int, eps: float
) -> None:
    """Replace the parts, with the multiplication by a weight and the addition of a bias after them."""
    weight = bias = None
    last, weight = _constant_after(editor, node, aten.mul.Tensor, width)
    if target is aten.layer_norm.default:
        last, bias = _constant_after(editor, last, aten.add.Tensor, width)
        arguments = [[width], weight, bias, eps]
    else:
        arguments = [[width], weight, eps]
    editor.replace(last, editor.insert(last, target, source, *arguments))


def _constant_after(
    editor: ProgramEditor, node: Node, target: torch._ops.OpOverload, width: int
) -> tuple[Node, Node | None]:
    """Return the only reader of a node and its constant, (C,), if it is such an operator; else the node."""
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None or reader.target is not target or reader.kwargs or len(reader.args) != 2:
        return node, None
    others = [item for item in reader.args if item is not node]
    constant = editor.constant(others[0]) if len(others) == 1 else None
    if constant is None or constant.shape != (width,):
        return node, None
    assert isinstance(others[0], Node)
    return reader, others[0]
