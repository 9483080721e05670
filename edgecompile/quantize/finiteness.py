"""NaN and infinity in a calibration: seen in the bounds that observers keep, then traced to their origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree
from torchao.quantization.pt2e import ObserverBase

from edgecompile.errors import NotFiniteValueError
from edgecompile.graph_edit import operator_name, source_line


def all_finite(observers: Sequence[Any], outputs: Any) -> bool:
    """Tell whether all that was observed so far is finite, and no output holds NaN.

    The observers have their bounds at hand, so this takes a few operations on scalars. An output may be
    infinite, as masked logits are.

    Args:
        observers: Each with its bounds so far, `min_val` and `max_val`.
        outputs: What the model returned.
    """
    if observers:
        low = torch.stack([observer.min_val for observer in observers])
        high = torch.stack([observer.max_val for observer in observers])
        # No comparison with NaN is true; an observer that has seen nothing has the bounds inf and -inf.
        if not bool(((low > -torch.inf) & (high < torch.inf)).all()):
            return False
    return not any(bool(output.isnan().any()) for output in _floats(outputs))


def not_finite_error(model: GraphModule, inputs: Sequence[torch.Tensor], sample: str) -> NotFiniteValueError:
    """Run one sample again, value by value, and say which operator gave the first bad one.

    Some operators give infinity for good, as a mask before a softmax does. So the search begins at the first
    bad value that is observed or returned, and goes back to the operator whose own inputs are all finite.

    Args:
        model: With its observers.
        inputs: The sample's.
        sample: What the error calls it.
    """
    values = _Values(model)
    values.run(*inputs)
    bad = values.bad
    origin = reached = values.first_refused()
    while sources := [node for node in bad if node in origin.all_input_nodes]:
        origin = sources[0]
    line, counts = source_line(origin), bad[origin]
    kinds = " and ".join(["NaN"] * (counts.nan > 0) + ["infinity"] * (counts.infinite > 0))
    found = f"{counts.nan + counts.infinite} of {counts.total} elements"
    if reached is not origin:
        found += f"\nit reaches {operator_name(reached)} ({reached.name}) {source_line(reached)}".rstrip()
    if origin.op == "get_attr":
        what, hint = f"the constant {origin.target} holds", "look at the weights that the model loads"
    else:
        what = f"{operator_name(origin)} ({origin.name}) gives"
        hint = "bound what goes into a logarithm, root or division; use a large finite number for a mask;\n"
        hint += "or leave the sample out if it is not typical"
    return NotFiniteValueError(
        f"{what} {kinds} in the calibration",
        where=f"{line}; {sample}" if line else sample,
        found=found,
        hint=hint,
    )


class _Counts(NamedTuple):
    """The elements of a value."""

    nan: int
    infinite: int
    total: int


class _Values(Interpreter):
    """Runs a model with its observers asleep; `bad` has each value that is not finite, in order."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model)
        self.bad: dict[Node, _Counts] = {}

    def run_node(self, n: Node) -> Any:
        """Compute one value, and look at it."""
        value = self.env[n.all_input_nodes[0]] if self._is_observer(n) else super().run_node(n)
        floats = _floats(value)
        nan = sum(int(tensor.isnan().sum()) for tensor in floats)
        infinite = sum(int(tensor.isinf().sum()) for tensor in floats)
        if nan or infinite:
            self.bad[n] = _Counts(nan, infinite, sum(tensor.numel() for tensor in floats))
        return value

    def first_refused(self) -> Node:
        """Return the first node that is observed and not finite, or returned and NaN."""
        return next(
            node
            for node, counts in self.bad.items()
            for user in node.users
            if self._is_observer(user) or (user.op == "output" and counts.nan)
        )

    def _is_observer(self, node: Node) -> bool:
        return node.op == "call_module" and isinstance(self.fetch_attr(str(node.target)), ObserverBase)


def _floats(values: Any) -> list[torch.Tensor]:
    leaves = _pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
