"""Recurrent layers step by step, in linear layers, slices and elementwise operators that XNNPACK has.

ExecuTorch takes them apart too, but into operators of which it then delegates only a part.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.passes.canonicalize_views import are_fixed, fixed_sizes, insert_view

aten = torch.ops.aten

# Each step is some ten operators.
_MOST_STEPS = 256

# The state after a step, from the weights, the gates of the input, (N, 1, G * H), and the state before it.
_State = tuple[Node, ...]
_Step = Callable[["_Weights", Node, _State], _State]


def gru(editor: ProgramEditor, node: Node) -> Node | None:
    """Gated recurrent units (Cho et al. 2014), in the form of cuDNN, which is torch's."""
    return _unrolled(editor, node, [operand(node, 1)], _gru_step)


def lstm(editor: ProgramEditor, node: Node) -> Node | None:
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""
    return _unrolled(editor, node, list(cast("list[Node]", node.args[1])), _lstm_step)


class _Weights:
    """One layer's weights in one direction, and the calls that a step is made of."""

    def __init__(self, editor: ProgramEditor, node: Node, parameters: list[Node]) -> None:
        self._editor, self._node = editor, node
        self.of_input, self.of_state = parameters[:2]
        self.input_bias, self.state_bias = [*parameters[2:], None, None][:2]
        self.width = self.of_state.meta["val"].shape[1]

    def call(self, target: Any, *arguments: Any) -> Node:
        return self._editor.insert(self._node, target, *arguments)

    def linear(self, value: Node, weight: Node, bias: Node | None) -> Node:
        return self.call(aten.linear.default, value, weight, *([] if bias is None else [bias]))

    def gate(self, gates: Node, index: int) -> Node:
        return self.call(aten.slice.Tensor, gates, 2, index * self.width, (index + 1) * self.width)


def _gru_step(weights: _Weights, gates: Node, state: _State) -> _State:
    (hidden,) = state
    own = weights.linear(hidden, weights.of_state, weights.state_bias)
    both = [
        weights.call(aten.add.Tensor, weights.gate(gates, index), weights.gate(own, index))
        for index in (0, 1)
    ]
    reset, update = (weights.call(aten.sigmoid.default, value) for value in both)
    kept = weights.call(aten.mul.Tensor, reset, weights.gate(own, 2))
    new = weights.call(aten.tanh.default, weights.call(aten.add.Tensor, weights.gate(gates, 2), kept))
    # (1 - update) * new + update * hidden
    change = weights.call(aten.mul.Tensor, update, weights.call(aten.sub.Tensor, hidden, new))
    return (weights.call(aten.add.Tensor, new, change),)


def _lstm_step(weights: _Weights, gates: Node, state: _State) -> _State:
    hidden, cell = state
    total = weights.call(aten.add.Tensor, gates, weights.linear(hidden, weights.of_state, weights.state_bias))
    taken, kept, given = (
        weights.call(aten.sigmoid.default, weights.gate(total, index)) for index in (0, 1, 3)
    )
    new = weights.call(aten.mul.Tensor, taken, weights.call(aten.tanh.default, weights.gate(total, 2)))
    cell = weights.call(aten.add.Tensor, weights.call(aten.mul.Tensor, kept, cell), new)
    return weights.call(aten.mul.Tensor, given, weights.call(aten.tanh.default, cell)), cell


def _unrolled(editor: ProgramEditor, node: Node, states: list[Node], step: _Step) -> Node | None:
    """Replace a recurrent layer by its steps; None where a size is dynamic, or there are too many."""
    parameters, has_biases, layers, _, _, bidirectional, batch_first = cast("Any", node.args[2:9])
    source = operand(node)
    sizes = fixed_sizes(source)
    if sizes is None or len(sizes) != 3 or sizes[0] == -1 or not are_fixed(*states):
        return None
    if sizes[1 if batch_first else 0] > _MOST_STEPS:
        return None
    if not batch_first:
        source = editor.insert(node, aten.permute.default, source, [1, 0, 2])
    directions, each = 2 if bidirectional else 1, 4 if has_biases else 2
    last: list[_State] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            weights = _Weights(editor, node, parameters[place * each : (place + 1) * each])
            first = tuple(_state(editor, node, state, place) for state in states)
            values, state = _run(weights, source, first, step, backwards=direction == 1)
            outputs.append(weights.call(aten.cat.default, values, 1) if len(values) > 1 else values[0])
            last.append(state)
        source = outputs[0] if directions == 1 else editor.insert(node, aten.cat.default, outputs, 2)
    if not batch_first:
        source = editor.insert(node, aten.permute.default, source, [1, 0, 2])
    results = [
        source,
        *(_stacked(editor, node, [state[kind] for state in last]) for kind in range(len(states))),
    ]
    for user in list(node.users):
        assert user.target is operator.getitem
        editor.replace(user, results[cast("int", user.args[1])])
    return None


def _state(editor: ProgramEditor, node: Node, state: Node, place: int) -> Node:
    """Return the first state of one layer and direction, (N, 1, H), of (layers, N, H)."""
    count, batch, width = cast("list[int]", fixed_sizes(state))
    own = state if count == 1 else editor.insert(node, aten.slice.Tensor, state, 0, place, place + 1)
    return insert_view(editor, node, own, [batch, 1, width])


def _run(
    weights: _Weights, source: Node, state: _State, step: _Step, *, backwards: bool
) -> tuple[list[Node], _State]:
    """Return the hidden states of all steps in the order of the input, each (N, 1, H), and the last state."""
    gates = weights.linear(source, weights.of_input, weights.input_bias)  # (N, T, G * H), all steps at once
    steps = range(source.meta["val"].shape[1])
    found = []
    for index in reversed(steps) if backwards else steps:
        state = step(weights, weights.call(aten.slice.Tensor, gates, 1, index, index + 1), state)
        found.append(state[0])
    return found[::-1] if backwards else found, state


def _stacked(editor: ProgramEditor, node: Node, states: list[Node]) -> Node:
    """Return last states, each (N, 1, H), as (layers, N, H)."""
    turned = [editor.insert(node, aten.permute.default, state, [1, 0, 2]) for state in states]
    return turned[0] if len(turned) == 1 else editor.insert(node, aten.cat.default, turned, 0)
