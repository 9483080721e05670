"""Operators that say in one word what others say: what they compute, in the words of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.nn import functional

aten = torch.ops.aten
Tensor = torch.Tensor
Formula = Callable[..., Any]
"""What an operator computes, of its arguments; raises NotImplementedError where it has no better words."""
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934  # Klambauer et al. 2017


def _parts(names: str) -> dict[Any, Formula]:
    """Return what PyTorch itself makes of operators that it has no kernels for."""
    split = [name.split(".") for name in names.split()]
    found = [getattr(getattr(aten, name), overload) for name, overload in split]
    return {operator: operator.decompose for operator in found}


def _turned(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Return a picture turned by quarters, from the first axis towards the second."""
    quarters, (first, second) = k % 4, dims
    if quarters == 0:
        return x
    if quarters == 2:
        return x.flip(first, second)
    return x.transpose(first, second).flip(first if quarters == 1 else second)


def _unflattened(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    unflattened: Tensor = aten.unflatten.int(x, axis, list(sizes))
    return unflattened


def _plus(x: Tensor, y: Tensor, times_x: float, times_y: float) -> Tensor:
    x, y = (value if times == 1 else value * float(times) for value, times in ((x, times_x), (y, times_y)))
    return x + y


def _added_product(bias: Tensor, x: Tensor, y: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    return _plus(bias, torch.matmul(x, y), beta, alpha)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = torch.matmul(x, weight.transpose(-1, -2))
    return product if bias is None else product + bias


def _cross(x: Tensor, y: Tensor, dim: int | None = -1) -> Tensor:
    """Return the cross product of vectors (3,) along an axis."""
    axis = next(index for index, size in enumerate(x.shape) if size == 3) if dim is None else dim

    def turned(value: Tensor, places: int) -> Tensor:
        parts = [aten.slice.Tensor(value, axis, *ends) for ends in ((places, 3), (0, places))]
        return torch.cat(parts, axis)

    return turned(x, 1) * turned(y, 2) - turned(x, 2) * turned(y, 1)


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x weight y` (..., K) of vectors (..., I) and (..., J), for a weight (K, I, J)."""
    rows = functional.linear(x, weight.transpose(1, 2).flatten(0, 1))
    product = (_unflattened(rows, -1, weight.shape[::2]) * y.unsqueeze(-2)).sum(-1)
    return product if bias is None else product + bias


def _rounded(x: Tensor, mode: str | None) -> Tensor:
    if mode == "trunc":
        raise NotImplementedError("it rounds towards zero")
    return x if mode is None else x.floor()


def _exponential(base: float, x: Tensor) -> Tensor:
    if base <= 0:
        raise NotImplementedError("its base is not positive")
    return (x * math.log(base)).exp()


def _clamped(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _threshold(x: Tensor, threshold: float, value: float) -> Tensor:
    if threshold != value:
        raise NotImplementedError("it jumps")
    return x.clamp(min=threshold)


def _celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return `alpha elu(x / alpha)`, which it is where alpha is positive (Barron 2017)."""
    if alpha <= 0:
        raise NotImplementedError("it bends the other way")
    return functional.elu(x) if alpha == 1 else functional.elu(x * (1 / alpha)) * float(alpha)


def _logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    """Return it by the largest value, with which nothing overflows (Blanchard et al. 2021)."""
    largest = x.amax(dim, keepdim=True)
    total = (x - largest).exp().sum(dim, keepdim=True).log() + largest
    return total if keepdim else total.squeeze(tuple(dim))


def _var_mean(x: Tensor, dim: Any = None, *args: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
    keepdim = keywords.get("keepdim", args[1] if len(args) > 1 else False)
    return torch.var(x, dim, *args, **keywords), torch.mean(x, dim, keepdim)


def _cosine(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    lengths: list[Tensor] = [torch.linalg.vector_norm(value, 2, dim).clamp(min=eps) for value in (x, y)]
    return (x * y).sum(dim) / (lengths[0] * lengths[1])


def _pairwise_distance(
    x: Tensor, y: Tensor, p: float = 2, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    apart = x - y + eps if eps else x - y
    distance: Tensor = torch.linalg.vector_norm(apart, p, -1, keepdim)
    return distance


def _volumes(pool: Formula, x: Tensor, *sizes: Any) -> Tensor:
    """Pool (N, C, D, H, W) or (C, D, H, W) along height and width, then along the depth."""
    if x.dim() == 4:
        return _volumes(pool, x.unsqueeze(0), *sizes).squeeze(0)
    kernel, stride, padding = (_triple(value) for value in (sizes[0], sizes[1] or sizes[0], sizes[2]))
    flat = pool(x.flatten(1, 2), kernel[1:], stride[1:], padding[1:])
    wide = _unflattened(flat, 1, x.shape[1:3])
    deep = pool(wide.flatten(3), (kernel[0], 1), (stride[0], 1), (padding[0], 0))
    return _unflattened(deep, 3, wide.shape[3:])


def _one_row(resample: Any) -> Formula:
    """Return the resampling of rows (N, C, L) as that of pictures one row high."""

    def formula(x: Tensor, size: list[int] | None, *rest: Any) -> Tensor:
        *others, scales = rest
        sizes = [[1, *given] if given else None for given in (size, scales)]
        resampled: Tensor = resample(x.unsqueeze(2), sizes[0], *others, sizes[1])
        return resampled.squeeze(2)

    return formula


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    if threshold < 20:
        raise NotImplementedError("it is cut off early")
    return functional.softplus(x * float(beta)) * (1 / beta)


def _norm(x: Tensor, order: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:
    """Return the norm of another order than 2."""
    axes = list(range(x.dim())) if dim is None else dim
    if order in (1, math.inf):
        return x.abs().sum(axes, keepdim) if order == 1 else x.abs().amax(axes, keepdim)
    if order in (0, -math.inf):
        raise NotImplementedError("it counts, or is the least")
    return x.abs().pow(order).sum(axes, keepdim).pow(1 / order)


def _has_factor(node: Node) -> bool:
    return "alpha" in node.kwargs


def _computed_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *statistics: Any) -> Tensor:
    """Return batch normalization with a mean and a variance that are computed."""
    mean, variance, training, _, eps = statistics[:5]
    if training or mean is None or variance is None:
        raise NotImplementedError("it computes its own statistics")

    def beside(value: Tensor) -> Tensor:
        return value.reshape(-1, *[1] * (x.dim() - 2))

    normed: Tensor = (x - beside(mean)) * (beside(variance) + eps).rsqrt()
    scaled = normed if weight is None else normed * beside(weight)
    return scaled if bias is None else scaled + beside(bias)


def _attention_of_groups(
    query: Tensor, key: Tensor, value: Tensor, *args: Any, enable_gqa: bool, **keywords: Any
) -> Tensor:
    """Return attention whose heads share keys and values (Ainslie et al. 2023), with a copy for each head."""
    copies = query.shape[-3] // key.shape[-3]
    key, value = (part.repeat_interleave(copies, -3) for part in (key, value))
    return functional.scaled_dot_product_attention(query, key, value, *args, **keywords)


def _triple(value: Any) -> list[int]:
    given = [value] if isinstance(value, int) else list(value)
    return given * 3 if len(given) == 1 else given


def _average_pool3d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, *others: Any) -> Tensor:
    rest = dict(zip(("ceil_mode", "count_include_pad", "divisor"), others, strict=False))
    is_even = rest.get("count_include_pad", True) or not any(_triple(padding))
    if rest.get("ceil_mode") or rest.get("divisor") or not is_even:
        raise NotImplementedError("its windows are not equally large")
    return _volumes(functional.avg_pool2d, x, kernel, stride, padding)


def _max_pool3d(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, *others: Any) -> Tensor:
    rest = dict(zip(("dilation", "ceil_mode"), others, strict=False))
    if rest.get("ceil_mode") or any(size != 1 for size in _triple(rest.get("dilation", 1))):
        raise NotImplementedError("its windows have gaps, or reach beyond the end")
    return _volumes(functional.max_pool2d, x, kernel, stride, padding)


MOVES: dict[Any, Formula] = {
    **_parts(
        "movedim.int movedim.intlist moveaxis.int moveaxis.intlist swapaxes.default swapdims.default "
        "mT.default mH.default adjoint.default numpy_T.default matrix_H.default ravel.default narrow.default "
        "hsplit.int hsplit.array vsplit.int vsplit.array dsplit.int dsplit.array tensor_split.sections "
        "tensor_split.indices hstack.default vstack.default dstack.default row_stack.default "
        "column_stack.default concat.default concatenate.default flipud.default fliplr.default tile.default "
        "atleast_1d.default atleast_2d.default atleast_3d.default meshgrid.default meshgrid.indexing "
        "multiply.Tensor multiply.Scalar divide.Tensor divide.Scalar true_divide.Tensor true_divide.Scalar "
        "subtract.Tensor subtract.Scalar negative.default absolute.default clip.default clip.Tensor "
        "arctan2.default special_expit.default"
    ),
    aten.rot90.default: _turned,
}
"""What only moves values, or has two names: for tensors of all types."""

PRODUCTS: dict[Any, Formula] = {
    aten.mm.default: torch.matmul,
    aten.mv.default: torch.matmul,
    aten.addmm.default: _added_product,
    aten.addmv.default: _added_product,
    aten.baddbmm.default: _added_product,
    aten.linear.default: _linear,
}
"""What a layer may be, where a constant takes part: `recognize-linear` knows more of these."""

FORMULAS: dict[Any, Formula] = {
    **_parts(
        "tensordot.default inner.default outer.default ger.default kron.default linalg_multi_dot.default "
        "chain_matmul.default linalg_matmul.default diff.default linalg_norm.default linalg_norm.ord_str"
    ),
    aten.dot.default: lambda x, y: (x * y).sum(),
    aten.vdot.default: lambda x, y: (x * y).sum(),
    aten.bilinear.default: _bilinear,
    aten.cross.default: lambda x, y, dim=None: _cross(x, y, dim),
    aten.linalg_cross.default: lambda x, y, *, dim=-1: _cross(x, y, dim),
    aten.avg_pool3d.default: _average_pool3d,
    aten.max_pool3d.default: _max_pool3d,
    aten.upsample_nearest1d.vec: _one_row(aten.upsample_nearest2d.vec),
    aten._upsample_nearest_exact1d.vec: _one_row(aten._upsample_nearest_exact2d.vec),
    aten.upsample_linear1d.vec: _one_row(aten.upsample_bilinear2d.vec),
    aten.rsub.Scalar: lambda x, other, alpha=1: x * -float(alpha) + float(other),
    aten.rsub.Tensor: lambda x, other, alpha=1: _plus(other, x, 1, -alpha),
    aten.lerp.Scalar: lambda x, end, weight: x + (end - x) * float(weight),
    aten.lerp.Tensor: lambda x, end, weight: x + (end - x) * weight,
    aten.div.Tensor_mode: lambda x, y, *, rounding_mode: _rounded(x / y, rounding_mode),
    aten.div.Scalar_mode: lambda x, y, *, rounding_mode: _rounded(x / y, rounding_mode),
    aten.floor_divide.default: lambda x, y: (x / y).floor(),
    aten.floor_divide.Scalar: lambda x, y: (x / y).floor(),
    aten.addcdiv.default: lambda x, over, under, value=1: _plus(x, over / under, 1, value),
    aten.clamp.Tensor: _clamped,
    aten.softshrink.default: lambda x, lambd=0.5: x - x.clamp(-lambd, lambd),
    aten.threshold.default: _threshold,
    aten.rrelu.default: lambda x, lower=1 / 8, upper=1 / 3, *_: functional.leaky_relu(x, (lower + upper) / 2),
    aten.selu.default: lambda x: functional.elu(x, _SELU_ALPHA) * _SELU_SCALE,
    aten.celu.default: _celu,
    aten.log_sigmoid.default: lambda x: -functional.softplus(-x),
    aten.logsumexp.default: _logsumexp,
    aten.exp2.default: lambda x: (x * math.log(2)).exp(),
    aten.pow.Scalar: _exponential,
    aten.log2.default: lambda x: x.log() * (1 / math.log(2)),
    aten.log10.default: lambda x: x.log() * (1 / math.log(10)),
    aten.amin.default: lambda x, dim=(), keepdim=False: -torch.amax(-x, dim, keepdim),
    aten.std.dim: lambda x, *args, **keywords: torch.var(x, *args, **keywords).sqrt(),
    aten.std.correction: lambda x, dim=None, **keywords: torch.var(x, dim, **keywords).sqrt(),
    aten.var_mean.dim: _var_mean,
    aten.var_mean.correction: _var_mean,
    aten.cosine_similarity.default: _cosine,
    aten.pairwise_distance.default: _pairwise_distance,
    aten.cdist.default: lambda x, y, p=2.0, *_: _pairwise_distance(x.unsqueeze(-2), y.unsqueeze(-3), p, 0),
}
"""What computes something, with floats."""

UNUSUAL: dict[Any, tuple[Callable[[Node], bool], Formula]] = {
    aten.add.Tensor: (_has_factor, lambda x, y, *, alpha: x + y * float(alpha)),
    aten.sub.Tensor: (_has_factor, lambda x, y, *, alpha: x - y * float(alpha)),
    aten.batch_norm.default: (
        lambda node: any(isinstance(item, Node) and item.op == "call_function" for item in node.args[1:5]),
        _computed_norm,
    ),
    aten.softplus.default: (lambda node: node.args[1:2] not in ((), (1,)), _softplus),
    aten.linalg_vector_norm.default: (lambda node: node.args[1:2] not in ((), (2,)), _norm),
    aten.scaled_dot_product_attention.default: (
        lambda node: bool(node.kwargs.get("enable_gqa")),
        _attention_of_groups,
    ),
}
"""What every engine has, but not with all arguments: whether a node is of those, and its formula."""

BATCHED: dict[Any, int] = {
    aten.conv1d.default: 3,
    aten.conv1d.padding: 3,
    aten.conv2d.default: 4,
    aten.conv2d.padding: 4,
    aten.conv3d.default: 5,
    aten.conv_transpose1d.default: 3,
    aten.conv_transpose2d.input: 4,
    aten.conv_transpose3d.input: 5,
    aten.max_pool1d.default: 3,
    aten.max_pool2d.default: 4,
    aten.avg_pool1d.default: 3,
    aten.avg_pool2d.default: 4,
    aten.adaptive_avg_pool1d.default: 3,
    aten.adaptive_avg_pool2d.default: 4,
}
"""The axes of a batch for operators that also take one sample without an axis for it; engines do not."""


def as_batch(operator: Any) -> Formula:
    """Return what an operator computes of one sample, as it does of a batch."""
    return lambda x, *args, **keywords: operator(x.unsqueeze(0), *args, **keywords).squeeze(0)
