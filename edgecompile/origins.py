"""Where a node came from first: profiles of a `.pte` number its operators by that.

torch keeps the whole history of a node as copies of copies. The first node of it is all that is read.
"""

from __future__ import annotations

from torch.fx import Node
from torch.fx.traceback import NodeSource

_KEY = "from_node"


def origin_of(node: Node) -> NodeSource:
    """Return the first node of a node's history; that is itself where it has none."""
    history = node.meta.get(_KEY)
    if not history:
        return NodeSource(node)
    source: NodeSource = history[-1]
    while source.from_node:
        source = source.from_node[-1]
    return source


def origin_named(name: str, graph_id: int) -> NodeSource:
    """Return an origin again: two nodes have the same where both names and both numbers are equal."""
    source = NodeSource(None)
    source.node_info = NodeSource.NodeInfo(name=name, target=name, graph_id=graph_id)
    return source


def has_origin(node: Node) -> bool:
    """Tell whether a node has a history."""
    return bool(node.meta.get(_KEY))


def set_origin(node: Node, origin: NodeSource) -> None:
    """Let a node's history be its origin alone."""
    node.meta[_KEY] = [origin]
