"""How channels go through operators with parameters, normalizations and products of values."""

from __future__ import annotations

import torch
from torch.fx import Node

from edgecompile.graph_edit import operand, shape_of
from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED, groups_of
from edgecompile.pruning.channel_search import ChannelSearch, NotUnderstoodError, Rule
from edgecompile.pruning.labels import Labels

aten = torch.ops.aten


def convolution(search: ChannelSearch, node: Node) -> Labels | None:
    """New channels for the rows of the weight; those of the input are its columns."""
    source, weight = search.of(node.args[0]), search.constant(node.args[1])
    search.require(weight is not None, "the weight of a convolution is computed")
    search.require(source is None or source.axes == (1,), "a convolution reads them along its pixels")
    assert weight is not None
    search.require(len(shape_of(node)) == weight.dim(), "a convolution reads a single picture")
    transposed, groups = node.target in TRANSPOSED, groups_of(node)
    rows, columns = (1, 0) if transposed else (0, 1)  # the axes of the weight that are outputs and inputs
    reads = None if source is None else source.ids
    inputs = weight.shape[0] if transposed else weight.shape[1] * groups
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    if groups == 1:
        writes = search.begin(node, outputs)
        search.label_constant(node.args[1], columns, reads)
        search.label_constant(node.args[1], rows, writes)
    elif loses_groups(node):
        # Whole groups are removed: the channels that one reads and those that it writes are one.
        if reads is None:
            return None
        reads = search.unite_along(reads.reshape(groups, -1), 1)
        writes = reads.repeat_interleave(outputs // groups)
        per_group = inputs // groups if transposed else outputs // groups
        search.label_constant(node.args[1], 0, reads.repeat_interleave(per_group))
    else:
        # As many channels are removed from each group.
        writes = search.begin(node, outputs)
        for axis, ids in ((columns, reads), (rows, writes)):
            if ids is not None:
                column = search.unite_along(ids.reshape(groups, -1), 0)
                search.label_constant(node.args[1], axis, ids if axis == 0 else column)
    if len(node.args) > 2:
        search.label_constant(node.args[2], 0, writes)
    return Labels(axes=(1,), ids=writes)


def loses_groups(node: Node) -> bool:
    """Tell whether a convolution in groups loses whole groups, and not as many channels from each."""
    groups, channels = groups_of(node), shape_of(operand(node))[1]
    assert isinstance(channels, int)
    return groups > 1 and groups >= channels // groups


def linear(search: ChannelSearch, node: Node) -> Labels | None:
    """New channels for the rows of the weight, unless those of another axis pass through."""
    source, weight = search.of(node.args[0]), search.constant(node.args[1])
    search.require(weight is not None, "the weight of a linear layer is computed")
    assert weight is not None
    last = len(shape_of(operand(node))) - 1
    if source is not None and last not in source.axes:
        return source
    search.require(source is None or source.axes == (last,), "a linear layer reads them over several axes")
    if source is not None:
        search.label_constant(node.args[1], 1, source.ids)
    writes = search.begin(node, weight.shape[0])
    search.label_constant(node.args[1], 0, writes)
    if len(node.args) > 2:
        search.label_constant(node.args[2], 0, writes)
    return Labels(axes=(last,), ids=writes)


def embedding(search: ChannelSearch, node: Node) -> Labels | None:
    """New channels for the columns of the table."""
    weight = search.constant(node.args[0])
    search.require(weight is not None, "the table of an embedding is computed")
    assert weight is not None
    writes = search.begin(node, weight.shape[1])
    search.label_constant(node.args[0], 1, writes)
    return Labels(axes=(len(shape_of(node)) - 1,), ids=writes)


def per_channel(search: ChannelSearch, node: Node) -> Labels | None:
    """A normalization or activation with parameters for each channel, on axis 1."""
    source = search.of(node.args[0])
    if source is None:
        return None
    search.require(source.axes == (1,), "a normalization reads them over other axes than its own")
    for argument in node.args[1:]:
        value = search.constant(argument)
        if value is not None and value.numel() > 1:
            search.label_constant(argument, 0, source.ids)
    return source


def layer_norm(search: ChannelSearch, node: Node) -> Labels | None:
    """The statistics are those of the channels that stay."""
    source, shape = search.of(node.args[0]), node.args[1]
    if source is None:
        return None
    assert isinstance(shape, list | tuple)
    first = len(shape_of(operand(node))) - len(shape)
    inside = [axis >= first for axis in source.axes]
    if not any(inside):
        return source
    search.require(all(inside), "a layer norm normalizes over a part of their axes")
    own = source.moved({axis: axis - first for axis in source.axes})
    for argument in node.args[2:4]:
        if isinstance(argument, Node):
            search.require(search.adopt(argument, own), "the parameters of a layer norm are computed")
    return source


def group_norm(search: ChannelSearch, node: Node) -> Labels | None:
    """Whole groups are removed, or as many channels from each."""
    source, groups = search.of(node.args[0]), node.args[1]
    if source is None:
        return None
    assert isinstance(groups, int)
    search.require(source.axes == (1,), "a group norm reads them over other axes than its own")
    grouped = source.ids.reshape(groups, -1)
    if groups > 1:
        search.unite_along(grouped, 1 if whole_groups(node) else 0)
    for argument in node.args[2:4]:
        search.label_constant(argument, 0, source.ids)
    return source


def whole_groups(node: Node) -> bool:
    """Tell whether a group norm loses whole groups."""
    groups, channels = node.args[1], shape_of(operand(node))[1]
    assert isinstance(groups, int)
    assert isinstance(channels, int)
    return groups > channels // groups


def product(search: ChannelSearch, node: Node) -> Labels | None:
    """A matrix product of two values: (..., M, K) and (..., K, N)."""
    left, right = operand(node, 0), operand(node, 1)
    rank = len(shape_of(node))
    search.require(min(len(shape_of(left)), len(shape_of(right))) >= 2, "a product with a vector reads them")
    one, other = (_one_axis(search, side, rank) for side in (left, right))
    if one is None and other is None:
        return None
    if (one is not None and one.on(rank - 1)) or (other is not None and other.on(rank - 2)):
        # Summed over: both sides lose the same.
        search.require(
            one is not None and other is not None and one.on(rank - 1) and other.on(rank - 2),
            "a product sums over them, and its other side is kept whole",
        )
        assert one is not None
        assert other is not None
        search.unite(one.ids, other.ids)
        return None
    if one is None or other is None:
        known, missing = (one, right) if one is not None else (other, left)
        assert known is not None
        _meets(search, known, missing, rank)
        return known
    search.require(one.axes == other.axes and one.axes[0] < rank - 2, "a product makes pairs of them")
    search.unite(one.ids, other.ids)
    return one


def attention(search: ChannelSearch, node: Node) -> Labels | None:
    """Scaled dot-product attention: whole heads are removed."""
    rank = len(shape_of(node))
    sides = [operand(node, place) for place in range(3)]
    labels = [_one_axis(search, side, rank) for side in sides]
    known = [item for item in labels if item is not None]
    if not known:
        return None
    reason = "attention scales by the width of a head"
    search.require(all(item.axes[0] < rank - 2 for item in known), reason)
    search.require(len(known) == 3, "queries, keys or values of attention are kept whole")
    search.require(len({(item.axes, item.ids.shape) for item in known}) == 1, "heads share their keys")
    for other in known[1:]:
        search.unite(known[0].ids, other.ids)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if isinstance(mask, Node):
        _meets(search, known[0], mask, rank)
    return known[0]


def _meets(search: ChannelSearch, labels: Labels, other: Node, rank: int) -> None:
    """Label the other side of a product along a batch axis."""
    (axis,) = labels.axes
    if axis >= rank - 2:
        return
    own = axis - (rank - len(shape_of(other)))
    if own < 0 or shape_of(other)[own] == 1:
        return
    if not search.adopt(other, Labels(axes=(own,), ids=labels.ids)):
        raise NotUnderstoodError(f"they meet {other.name}, which is kept whole")


def _one_axis(search: ChannelSearch, node: Node, rank: int) -> Labels | None:
    """Return the labels of a side of a product along one axis, counted as in the result.

    Labels along several axes become one along all but the first: heads are whole.
    """
    labels = search.of(node)
    if labels is None:
        return None
    shift = rank - len(shape_of(node))
    if len(labels.axes) > 1:
        search.require(labels.axes[0] + shift < rank - 2, "a product reads them over several axes")
        ids = labels.ids
        while ids.dim() > 1:
            ids = search.unite_along(ids, ids.dim() - 1)
        labels = Labels(axes=labels.axes[:1], ids=ids)
    return labels.moved({axis: axis + shift for axis in labels.axes})


RULES: dict[object, Rule] = {
    **dict.fromkeys(CONVOLUTIONS, convolution),
    **dict.fromkeys(TRANSPOSED, convolution),
    LINEAR: linear,
    aten.embedding.default: embedding,
    aten.batch_norm.default: per_channel,
    aten.instance_norm.default: per_channel,
    aten.prelu.default: per_channel,
    aten.layer_norm.default: layer_norm,
    aten.rms_norm.default: layer_norm,
    aten.group_norm.default: group_norm,
    aten.matmul.default: product,
    aten.bmm.default: product,
    aten.scaled_dot_product_attention.default: attention,
}
