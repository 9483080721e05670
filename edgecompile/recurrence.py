"""Recurrent layers step by step: linear layers, slices and elementwise operators that every engine has."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch.fx import Node

from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.passes.canonicalize_views import are_fixed, fixed_sizes, insert_view

aten = torch.ops.aten

# Each step is some ten operators.
MOST_STEPS = 256

# The state after a step, from the weights, the gates of the input, (..., G * H), and the state before it.
_State = tuple[Node, ...]
_Step = Callable[["_Weights", Node, _State], _State]


def unrolled(editor: ProgramEditor, node: Node) -> None:
    """Replace a layer's readers by what its steps give; leave it where a size is dynamic, or it is long."""
    given, step = node.args[1], _LAYERS[node.target]
    states = cast("list[Node]", list(given) if isinstance(given, list | tuple) else [given])
    parameters, has_biases, layers, _, _, bidirectional, batch_first = cast("Any", node.args[2:9])
    source = operand(node)
    sizes = fixed_sizes(source)
    if sizes is None or len(sizes) != 3 or sizes[0] == -1 or not are_fixed(*states):
        return
    if sizes[1 if batch_first else 0] > MOST_STEPS:
        return
    if not batch_first:
        source = editor.insert(node, aten.permute.default, source, [1, 0, 2])
    directions = 2 if bidirectional else 1
    each = len(parameters) // (layers * directions)
    last: list[_State] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            place = layer * directions + direction
            own = parameters[place * each : (place + 1) * each]
            biases, projection = (own[2:4], own[4:]) if has_biases else ([None, None], own[2:])
            weights = _Weights(editor, node, [*own[:2], *biases], next(iter(projection), None))
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
    _replace_parts(editor, node, results)


def unrolled_cell(editor: ProgramEditor, node: Node) -> Node | None:
    """Return a cell's new state from its linear layers; where that is two values, replace its readers."""
    states, step = node.args[1], _CELLS[node.target]
    before = tuple(states) if isinstance(states, list | tuple) else (states,)
    weights = _Weights(editor, node, [*node.args[2:], None, None][:4])
    gates = weights.linear(operand(node), weights.of_input, weights.input_bias)
    after = step(weights, gates, cast("_State", before))
    if len(after) == 1:
        return after[0]
    _replace_parts(editor, node, after)
    return None


def is_projected(node: Node) -> bool:
    """Tell whether an LSTM's hidden state is projected to another width (Sak et al. 2014)."""
    parameters, has_biases, layers, _, _, bidirectional = cast("Any", node.args[2:8])
    each = len(parameters) // (layers * (1 + bidirectional))
    return node.target is aten.lstm.input and each == (5 if has_biases else 3)


class _Weights:
    """One layer's weights in one direction, and the calls that a step is made of."""

    def __init__(
        self, editor: ProgramEditor, node: Node, parameters: Sequence[Any], projection: Node | None = None
    ) -> None:
        self._editor, self._node = editor, node
        self.of_input, self.of_state, self.input_bias, self.state_bias = parameters
        self.projection = projection

    def call(self, target: Any, *arguments: Any) -> Node:
        return self._editor.insert(self._node, target, *arguments)

    def linear(self, value: Node, weight: Node, bias: Node | None) -> Node:
        return self.call(aten.linear.default, value, weight, *([] if bias is None else [bias]))

    def from_state(self, hidden: Node) -> Node:
        return self.linear(hidden, self.of_state, self.state_bias)

    def gate(self, gates: Node, index: int, count: int) -> Node:
        """Return one of `count` gates, which lie side by side along the last axis."""
        *outer, total = gates.meta["val"].shape
        width = total // count
        return self.call(aten.slice.Tensor, gates, len(outer), index * width, (index + 1) * width)


def _gru_step(weights: _Weights, gates: Node, state: _State) -> _State:
    """Gated recurrent units (Cho et al. 2014), in the form of cuDNN, which is torch's."""
    (hidden,) = state
    own = weights.from_state(hidden)
    both = [
        weights.call(aten.add.Tensor, weights.gate(gates, index, 3), weights.gate(own, index, 3))
        for index in (0, 1)
    ]
    reset, update = (weights.call(aten.sigmoid.default, value) for value in both)
    kept = weights.call(aten.mul.Tensor, reset, weights.gate(own, 2, 3))
    new = weights.call(aten.tanh.default, weights.call(aten.add.Tensor, weights.gate(gates, 2, 3), kept))
    # (1 - update) * new + update * hidden
    change = weights.call(aten.mul.Tensor, update, weights.call(aten.sub.Tensor, hidden, new))
    return (weights.call(aten.add.Tensor, new, change),)


def _lstm_step(weights: _Weights, gates: Node, state: _State) -> _State:
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""
    hidden, cell = state
    total = weights.call(aten.add.Tensor, gates, weights.from_state(hidden))
    taken, kept, given = (
        weights.call(aten.sigmoid.default, weights.gate(total, index, 4)) for index in (0, 1, 3)
    )
    new = weights.call(aten.mul.Tensor, taken, weights.call(aten.tanh.default, weights.gate(total, 2, 4)))
    cell = weights.call(aten.add.Tensor, weights.call(aten.mul.Tensor, kept, cell), new)
    hidden = weights.call(aten.mul.Tensor, given, weights.call(aten.tanh.default, cell))
    if weights.projection is not None:
        hidden = weights.linear(hidden, weights.projection, None)
    return hidden, cell


def _plain_step(activation: Any) -> _Step:
    """Return the step of a network of Elman (1990)."""

    def step(weights: _Weights, gates: Node, state: _State) -> _State:
        total = weights.call(aten.add.Tensor, gates, weights.from_state(state[0]))
        return (weights.call(activation, total),)

    return step


_LAYERS: dict[Any, _Step] = {
    aten.gru.input: _gru_step,
    aten.lstm.input: _lstm_step,
    aten.rnn_tanh.input: _plain_step(aten.tanh.default),
    aten.rnn_relu.input: _plain_step(aten.relu.default),
}
_CELLS: dict[Any, _Step] = {
    aten.gru_cell.default: _gru_step,
    aten.lstm_cell.default: _lstm_step,
    aten.rnn_tanh_cell.default: _plain_step(aten.tanh.default),
    aten.rnn_relu_cell.default: _plain_step(aten.relu.default),
}
LAYERS, CELLS = tuple(_LAYERS), tuple(_CELLS)


def _replace_parts(editor: ProgramEditor, node: Node, results: Sequence[Node]) -> None:
    for user in list(node.users):
        assert user.target is operator.getitem
        editor.replace(user, results[cast("int", user.args[1])])


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
