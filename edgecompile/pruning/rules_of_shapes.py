"""How channels go through operators without parameters: element by element, views, parts, sums, pooling."""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from edgecompile.graph_edit import operand, operator_name, shape_of
from edgecompile.pruning.channel_search import (
    ChannelSearch,
    NotUnderstoodError,
    Rule,
    broadcast,
    tensor_operands,
)
from edgecompile.pruning.labels import Labels, reshaped

aten = torch.ops.aten


def element_by_element(search: ChannelSearch, node: Node) -> Labels | None:
    """Any operator that treats each element alone, its operands broadcast."""
    return broadcast(search, node, tensor_operands(node))


def same(search: ChannelSearch, node: Node) -> Labels | None:
    """An operator that keeps the shape and treats each channel alone."""
    return search.of(node.args[0])


def per_picture(search: ChannelSearch, node: Node) -> Labels | None:
    """Pooling and resizing: each channel alone, over the axes after it."""
    source = search.of(node.args[0])
    if source is None:
        return None
    search.require(source.axes == (1,), "pooling or resizing reads them along its pixels")
    return source


def view(search: ChannelSearch, node: Node) -> Labels | None:
    """A view in another shape."""
    source = search.of(node.args[0])
    if source is None:
        return None
    found = reshaped(source, shape_of(operand(node)), shape_of(node))
    is_single = source.ids.numel() == 1
    search.require(
        found is not None,
        "the axis of a single channel is dropped"
        if is_single
        else "a view joins them with an axis of dynamic size",
    )
    return found


def permute(search: ChannelSearch, node: Node) -> Labels | None:
    """Axes in another order."""
    source = search.of(node.args[0])
    if source is None:
        return None
    assert callable(node.target)
    numbered = torch.empty(
        tuple(range(len(shape_of(node)))), device="meta"
    )  # each axis as long as its number
    order = node.target(numbered, *node.args[1:]).shape
    return source.moved({old: new for new, old in enumerate(order)})


def expand(search: ChannelSearch, node: Node) -> Labels | None:
    """Other axes repeated, and new ones before them."""
    source = search.of(node.args[0])
    if source is None:
        return None
    before, after = shape_of(operand(node)), shape_of(node)
    shift = len(after) - len(before)
    for axis in source.axes:
        search.require(before[axis] == after[axis + shift], "they are repeated")
    return source.moved({axis: axis + shift for axis in source.axes})


def reduce(search: ChannelSearch, node: Node) -> Labels | None:
    """A sum, mean or the like: over other axes the channels stay; over their own they are summed up."""
    source = search.of(node.args[0])
    if source is None:
        return None
    rank, gone = len(shape_of(operand(node))), reduced_axes(node)
    summed = [axis for axis in source.axes if axis in gone]
    if summed:
        search.require(
            summed == list(source.axes) and node.target in SUMS and not _looks_for_least(node),
            f"{operator_name(node)} reduces a part of them, or not as a sum",
        )
        return None
    keeps = len(shape_of(node)) == rank
    return source.moved({axis: axis - (0 if keeps else sum(a < axis for a in gone)) for axis in source.axes})


def _looks_for_least(node: Node) -> bool:
    order = node.args[1] if len(node.args) > 1 else 2
    return node.target is aten.linalg_vector_norm.default and isinstance(order, int | float) and order < 0


def reduced_axes(node: Node) -> set[int]:
    """Return the axes that a sum, mean or the like is over."""
    rank = len(shape_of(operand(node)))
    place = 2 if node.target is aten.linalg_vector_norm.default else 1
    given = node.args[place] if len(node.args) > place else None
    listed = [given] if isinstance(given, int) else given
    axes = {_integer(axis) % rank for axis in listed} if isinstance(listed, list | tuple) else set()
    return axes or set(range(rank))


def softmax(search: ChannelSearch, node: Node) -> Labels | None:
    """Each channel alone, if the softmax is over another axis."""
    source = search.of(node.args[0])
    if source is None:
        return None
    axis = _integer(node.args[1]) % len(shape_of(node))
    search.require(axis not in source.axes, "a softmax is taken over them")
    return source


def pad(search: ChannelSearch, node: Node) -> Labels | None:
    """Padding of other axes."""
    source, pads = search.of(node.args[0]), node.args[1]
    if source is None:
        return None
    assert isinstance(pads, list | tuple)
    rank = len(shape_of(node))
    padded = {rank - 1 - place // 2 for place, amount in enumerate(pads) if amount != 0}
    search.require(not padded & set(source.axes), "channels are padded with others")
    return source


def concatenate(search: ChannelSearch, node: Node) -> Labels | None:
    """Along the channels: one after the other; along another axis: the same in each."""
    sources = node.args[0]
    assert isinstance(sources, list | tuple)
    nodes = [source for source in sources if isinstance(source, Node)]
    known = [search.of(source) for source in nodes]
    first = next((labels for labels in known if labels is not None), None)
    if first is None:
        return None
    axis = _integer(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))
    if all(labels is None or axis not in labels.axes for labels in known):
        return broadcast_all(search, nodes)
    parts = []
    for source, labels in zip(nodes, known, strict=True):
        count = shape_of(source)[axis]
        assert isinstance(count, int)
        if labels is None:
            ids = search.begin(source, count)
            search.hold(ids, f"{source.name} is kept whole")
        else:
            search.require(labels.axes == (axis,), "parts with channels on several axes are joined")
            ids = labels.ids
        parts.append(ids)
    return Labels(axes=(axis,), ids=torch.cat(parts))


def broadcast_all(search: ChannelSearch, nodes: list[Node]) -> Labels | None:
    """Let the channels of values that are joined along another axis be one."""
    known = [labels for labels in map(search.of, nodes) if labels is not None]
    same_axes = all(labels.axes == known[0].axes for labels in known)
    search.require(same_axes, "parts with channels on several axes are joined")
    for labels in known[1:]:
        search.unite(known[0].ids, labels.ids)
    for node in nodes:
        if search.of(node) is None and not search.adopt(node, known[0]):
            raise NotUnderstoodError(f"they are joined with {node.name}, which is kept whole")
    return known[0]


def stack(search: ChannelSearch, node: Node) -> Labels | None:
    """A new axis: the same channels in each part."""
    sources = node.args[0]
    assert isinstance(sources, list | tuple)
    nodes = [source for source in sources if isinstance(source, Node)]
    if all(search.of(source) is None for source in nodes):
        return None
    labels = broadcast_all(search, nodes)
    assert labels is not None
    axis = _integer(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))
    return labels.moved({old: old + (old >= axis) for old in labels.axes})


def part(search: ChannelSearch, node: Node) -> Labels | None:
    """A slice: a run of channels, or all of them."""
    source = search.of(node.args[0])
    if source is None:
        return None
    axis, start, end, step = slice_of(node)
    if axis not in source.axes:
        return source
    search.require(step == 1, "every so many of them are taken")
    place = source.axes.index(axis)
    return Labels(axes=source.axes, ids=source.ids.narrow(place, start, end - start))


def slice_of(node: Node) -> tuple[int, int, int, int]:
    """Return the axis, the first index, the one after the last, and the step of a slice."""
    shape = shape_of(operand(node))
    axis = _integer(node.args[1] if len(node.args) > 1 else 0) % len(shape)
    size = shape[axis]
    start = node.args[2] if len(node.args) > 2 else 0
    end = node.args[3] if len(node.args) > 3 else None
    if node.target is aten.narrow.default and isinstance(start, int):
        end = start % size + _integer(end) if isinstance(size, int) else None
    step = _integer(node.args[4] if len(node.args) > 4 else 1)
    if not isinstance(size, int) or not isinstance(start, int | None) or not isinstance(end, int | None):
        return axis, 0, 0, 0
    first, last, _ = slice(start, end).indices(size)
    return axis, first, max(first, last), step


def select(search: ChannelSearch, node: Node) -> Labels | None:
    """One index of an axis: all of its indices lose the same channels."""
    source = search.of(node.args[0])
    if source is None:
        return None
    axis = _integer(node.args[1]) % len(shape_of(operand(node)))
    return _without(search, source, axis)


def split(search: ChannelSearch, node: Node) -> Labels | None:
    """Parts of an axis, each with its own channels where it is theirs."""
    source = search.of(node.args[0])
    if source is None:
        return None
    results = node.meta["val"]
    if node.target is aten.unbind.int:
        axis = _integer(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(operand(node)))
        search.of_parts[node] = [_without(search, source, axis)] * len(results)
        return None
    axis = _integer(node.args[2] if len(node.args) > 2 else 0) % len(shape_of(operand(node)))
    if axis not in source.axes:
        search.of_parts[node] = [source] * len(results)
        return None
    search.require(len(source.axes) == 1, "one of their axes is split")
    parts = torch.split(source.ids, [result.shape[axis] for result in results])
    search.of_parts[node] = [Labels(axes=(axis,), ids=ids) for ids in parts]
    return None


def taken_out(search: ChannelSearch, node: Node) -> Labels | None:
    """One of several results."""
    parts = search.of_parts.get(operand(node))
    return None if parts is None else parts[_integer(node.args[1])]


def pixel_shuffle(search: ChannelSearch, node: Node) -> Labels | None:
    """As many neighbouring channels as a pixel becomes go together."""
    source, factor = search.of(node.args[0]), _integer(node.args[1])
    if source is None:
        return None
    axis = len(shape_of(node)) - 3
    search.require(source.axes == (axis,), "a pixel shuffle reads them along its pixels")
    if node.target is aten.pixel_unshuffle.default:
        return Labels(axes=(axis,), ids=source.ids.repeat_interleave(factor * factor))
    return Labels(axes=(axis,), ids=search.unite_along(source.ids.reshape(-1, factor * factor), 1))


def not_understood(search: ChannelSearch, node: Node) -> Labels | None:
    """Any other operator: what treats each element alone, or what must be left alone."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.pointwise in tags:
        return element_by_element(search, node)
    raise NotUnderstoodError(f"{operator_name(node)} reads them, through which channels are not followed")


def _without(search: ChannelSearch, source: Labels, axis: int) -> Labels:
    """Return the labels of each index of an axis."""
    if axis not in source.axes:
        return source.moved({old: old - (old > axis) for old in source.axes})
    search.require(len(source.axes) > 1, "single channels are taken out")
    place = source.axes.index(axis)
    ids = search.unite_along(source.ids, place)
    axes = [old - (old > axis) for old in source.axes if old != axis]
    return Labels(axes=tuple(axes), ids=ids)


def _integer(value: object) -> int:
    assert isinstance(value, int)
    return value


VIEWS = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
SPLITS = (
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
)
_ORDERS = (
    *(aten.permute.default, aten.transpose.int, aten.t.default, aten.mT.default),
    *(aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist),
    *(aten.swapaxes.default, aten.swapdims.default),
)
SUMS = (
    *(aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.sum.default),
    aten.linalg_vector_norm.default,
)
_SAME = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.to.dtype,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.gelu.default,
    aten.silu.default,
    aten.mish.default,
    aten.relu6.default,
    aten.selu.default,
    aten.elu.default,
    aten.leaky_relu.default,
    aten.softplus.default,
)
_PICTURES = (
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.max_pool1d.default,
    aten.avg_pool1d.default,
    aten.adaptive_avg_pool1d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_bilinear2d.default,
)
RULES: dict[object, Rule] = {
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys((*SPLITS, aten.unbind.int), split),
    **dict.fromkeys((*SUMS, aten.amax.default, aten.amin.default), reduce),
    **dict.fromkeys(_SAME, same),
    **dict.fromkeys(_PICTURES, per_picture),
    **dict.fromkeys((aten.softmax.int, aten.log_softmax.int), softmax),
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), pad),
    **dict.fromkeys((aten.pixel_shuffle.default, aten.pixel_unshuffle.default), pixel_shuffle),
    **dict.fromkeys(_ORDERS, permute),
    operator.getitem: taken_out,
    aten.expand.default: expand,
    aten.cat.default: concatenate,
    aten.stack.default: stack,
    aten.slice.Tensor: part,
    aten.narrow.default: part,
    aten.select.int: select,
}
