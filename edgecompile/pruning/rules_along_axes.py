"""How channels go through operators that work along an axis or over windows, or give several results."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgecompile.graph_edit import operand, operator_name, shape_of
from edgecompile.pruning.channel_search import ChannelSearch, Rule
from edgecompile.pruning.labels import Labels
from edgecompile.pruning.rules_of_shapes import element_by_element, expand, per_picture, reduce, same

aten = torch.ops.aten

# Where an operator's arguments name its axes.
_ALONG: dict[object, int] = {aten.flip.default: 1, aten.roll.default: 2, aten.cumsum.default: 1}


def along(search: ChannelSearch, node: Node) -> Labels | None:
    """Elements of an axis are moved or summed up: that axis is another one."""
    source = search.of(node.args[0])
    if source is None:
        return None
    place, rank = _ALONG[node.target], len(shape_of(node))
    given = node.args[place] if len(node.args) > place else None
    listed = [given] if isinstance(given, int) else given
    search.require(isinstance(listed, list | tuple) and bool(listed), "all elements are moved as one row")
    assert isinstance(listed, list | tuple)
    axes = {axis % rank for axis in listed if isinstance(axis, int)}
    search.require(not axes & set(source.axes), f"{operator_name(node)} works along them")
    return source


def halves(search: ChannelSearch, node: Node) -> Labels | None:
    """A gated linear unit: where the channels are halved, each half loses the same."""
    source = search.of(node.args[0])
    if source is None:
        return None
    rank = len(shape_of(node))
    axis = (_integer(node.args[1]) if len(node.args) > 1 else -1) % rank
    if not source.on(axis):
        return source
    place = source.axes.index(axis)
    one, other = source.ids.chunk(2, place)
    search.unite(one, other)
    return Labels(axes=source.axes, ids=one)


def channel_shuffle(search: ChannelSearch, node: Node) -> Labels | None:
    """As many channels are removed from each of the groups that are dealt out in turn."""
    source, groups = search.of(node.args[0]), _integer(node.args[1])
    if source is None:
        return None
    search.require(source.axes == (1,), "a channel shuffle reads them along its pixels")
    column = search.unite_along(source.ids.reshape(groups, -1), 0)
    return Labels(axes=(1,), ids=column.repeat_interleave(groups))


def values_and_places(search: ChannelSearch, node: Node) -> Labels | None:
    """A maximum or minimum over other axes, and where it was."""
    source = search.of(node.args[0])
    if source is None:
        return None
    rank = len(shape_of(operand(node)))
    axis = _integer(node.args[1]) % rank
    search.require(not source.on(axis), f"{operator_name(node)} compares them")
    shift = 0 if len(node.meta["val"][0].shape) == rank else 1
    labels = source.moved({old: old - shift * (old > axis) for old in source.axes})
    search.of_parts[node] = [labels] * 2
    return None


def pooled_and_places(search: ChannelSearch, node: Node) -> Labels | None:
    """Maximum pooling that also gives where the maxima were."""
    search.of_parts[node] = [per_picture(search, node)] * 2
    return None


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


RULES: dict[object, Rule] = {
    **dict.fromkeys(_ALONG, along),
    aten.glu.default: halves,
    aten.channel_shuffle.default: channel_shuffle,
    **dict.fromkeys((aten.max.dim, aten.min.dim), values_and_places),
    **dict.fromkeys(
        (aten.adaptive_max_pool2d.default, aten.max_pool2d_with_indices.default), pooled_and_places
    ),
    **dict.fromkeys((aten.var.dim, aten.var.correction, aten.std.dim, aten.std.correction), reduce),
    **dict.fromkeys((aten.prod.dim_int, aten.logsumexp.default, aten.argmax.default), reduce),
    **dict.fromkeys((aten.zeros_like.default, aten.ones_like.default, aten.log_sigmoid.default), same),
    **dict.fromkeys((aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar), element_by_element),
    aten.expand_as.default: element_by_element,
    **dict.fromkeys((aten.repeat.default, aten.tile.default), expand),
    **dict.fromkeys(
        (
            *(aten.max_pool3d.default, aten.avg_pool3d.default, aten.adaptive_avg_pool3d.default),
            *(aten.upsample_nearest1d.vec, aten.upsample_nearest3d.vec, aten.upsample_trilinear3d.vec),
            *(aten.upsample_linear1d.vec, aten.upsample_bicubic2d.vec),
        ),
        per_picture,
    ),
}
