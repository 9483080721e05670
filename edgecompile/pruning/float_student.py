"""A float program as a differentiable function of its layers' parameters, several samples at once.

Joined samples, and batch norms that are folded into the convolutions before them, make a step of MobileNetV2
twice as fast. A captured program may hold the number of its samples, as `view(x, [1, 1280])` does: whether it
runs with more of them is tried, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.distillation import Parameter
from edgecompile.distillation_lesson import joined
from edgecompile.graph_edit import ProgramEditor, operand, output_nodes, user_input_names
from edgecompile.layer_rows import CONVOLUTIONS, LINEAR, TRANSPOSED
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.node_values import computed_value, given_values

aten = torch.ops.aten

# Where an operator has its weight or scale, and then its bias or shift.
_PLACES: dict[object, tuple[int, ...]] = {
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED, LINEAR), (1, 2)),
    **dict.fromkeys((aten.batch_norm.default, aten.instance_norm.default), (1, 2)),
    **dict.fromkeys((aten.layer_norm.default, aten.group_norm.default), (2, 3)),
    aten.rms_norm.default: (2,),
    aten.embedding.default: (0,),
}
_VIEWS = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
# The values of joined samples may take so much.
_ROOM_BYTES = 3 << 29
# Of the greatest absolute output: sums in another order round otherwise.
_TOLERANCE = 1e-4

Constants = Mapping[Node, torch.Tensor]


class FloatStudent:
    """Runs a float program, and writes what was trained into it.

    Attributes:
        parameters: Weights, biases, scales and shifts, each with its own magnitude as its rate.
        together: How many samples may be joined for one run.
    """

    def __init__(
        self, exported: ExportedProgram, samples: Sequence[Sample], hints: Sequence[Node] = ()
    ) -> None:
        """Begin with the program as it is.

        Args:
            exported: A float program in inference mode.
            samples: Tell magnitudes, and whether samples can be joined.
            hints: Nodes whose values are given after the outputs.
        """
        self._exported = exported
        self._results = (*output_nodes(exported.graph), *hints)
        self._dead = _dead_after(exported, self._results)
        self._norms = _foldable_norms(exported)
        self._reading = _reading_inputs(exported)
        self._convolutions = {convolution: norm for norm, convolution in self._norms.items()}
        self._given = _constant_nodes(exported)
        self._values = {
            node: value.detach().clone().to(torch.promote_types(value.dtype, torch.float32))
            for node in _readers(exported)
            if (value := self._given.get(node)) is not None and value.is_floating_point()
        }
        self.together = 1
        rates, values_bytes = self._measured(samples[0])
        self.parameters = [Parameter(value=value, rate=rates[node]) for node, value in self._values.items()]
        expected = [self._tried([sample]) for sample in samples[:2]]
        shapes = {tuple(value.shape for value in sample.inputs) for sample in samples}
        self.together = max(1, _ROOM_BYTES // max(values_bytes, 1)) if len(shapes) == 1 else 1
        if self.together > 1 and not self._agrees(samples[:2], expected):
            self.together = 1

    def constants(self) -> dict[Node, torch.Tensor]:
        """Return the parameters, batch norms folded into the convolutions before them."""
        found = {node: value.to(self._given[node].dtype) for node, value in self._values.items()}
        for norm, convolution in self._norms.items():
            weight = operand(convolution, 1)
            factor, shift = self._folded(norm, _argument(convolution, 2), found)
            found[weight] = found[weight] * factor.reshape(-1, *[1] * (found[weight].dim() - 1))
            found[norm] = shift
        return found

    def outputs(self, inputs: Sequence[torch.Tensor], constants: Constants) -> list[torch.Tensor]:
        """Return the program's outputs and the hints, for inputs of one sample or several joined ones."""
        return self._run(inputs, constants)

    def written(self) -> ExportedProgram:
        """Return the program with the parameters as they are now."""
        editor = ProgramEditor(self._exported)
        trained = {node.name: value.to(self._given[node].dtype) for node, value in self._values.items()}
        for node in editor.graph.find_nodes(op="placeholder"):
            if node.name in trained:
                editor.set_constant(node, trained[node.name])
        return editor.finish()

    def _run(
        self,
        inputs: Sequence[torch.Tensor],
        constants: Constants,
        look: Callable[[Node, Any], None] | None = None,
    ) -> list[torch.Tensor]:
        count = len(inputs[0]) if self.together > 1 else 1  # a sample has a batch of 1
        values = given_values(self._exported, inputs) | dict(constants)
        for node in self._exported.graph.nodes:
            if node.op != "call_function":
                continue
            if node in self._norms:
                values[node] = values[operand(node)]
            elif node in self._convolutions:
                rest = (constants[self._convolutions[node]], *node.args[3:])
                folded = values[operand(node)], constants[operand(node, 1)], *rest
                assert callable(node.target)
                values[node] = node.target(*folded, **node.kwargs)
            elif node.target in (*_VIEWS, aten.expand.default):
                values[node] = self._sized(node, values, count)
            else:
                values[node] = computed_value(node, values)
            if look is not None:
                look(node, values[node])
            for dead in self._dead.get(node, ()):
                del values[dead]
        return [values[node] for node in self._results]

    def _folded(self, norm: Node, bias: object, found: Constants) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what a batch norm multiplies a convolution's weight with, and the bias that it leaves."""

        def value(node: object, default: float) -> Any:
            return found.get(node, self._given[node]) if isinstance(node, Node) else default

        scale, shift, mean, variance = map(value, norm.args[1:5], (1.0, 0.0, 0.0, 1.0))
        epsilon: Any = norm.args[7]
        factor = scale * torch.rsqrt(variance + epsilon)
        return factor, (value(bias, 0.0) - mean) * factor + shift

    def _sized(self, node: Node, values: Mapping[Node, Any], count: int) -> torch.Tensor:
        """Return a view or expansion, whose first size is the number of samples where it was 1."""
        value = values[operand(node)]
        sizes: Any = torch.fx.map_arg(node.args[1], values.__getitem__)
        is_view = node.target in _VIEWS
        if list(sizes[:1]) == [1] and (node in self._reading or not is_view):
            sizes = [count, *sizes[1:]]
        result: torch.Tensor = value.reshape(sizes) if is_view else value.expand(sizes)
        return result

    def _measured(self, sample: Sample) -> tuple[dict[Node, float], int]:
        """Return the magnitude of each parameter, and what the values of a sample take.

        A bias may be 0 everywhere: its magnitude is that of what it is added to.
        """
        readers, sizes = _readers(self._exported), [0]
        magnitudes = {node: _root_mean_square(value) for node, value in self._values.items()}

        def look(node: Node, value: Any) -> None:
            if not isinstance(value, torch.Tensor):
                return
            sizes[0] += 0 if node in self._norms else value.nbytes
            for parameter in self._values:
                if (node, True) in readers[parameter]:
                    magnitudes[parameter] = max(magnitudes[parameter], _root_mean_square(value))

        with torch.no_grad():
            self._run(sample.inputs, self.constants(), look)
        return magnitudes, sizes[0]

    def _tried(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """Return the outputs for samples that are joined."""
        with torch.no_grad():
            return self._run(joined([item.inputs for item in samples]), self.constants())

    def _agrees(self, samples: Sequence[Sample], expected: Sequence[Sequence[torch.Tensor]]) -> bool:
        """Tell whether joined samples give what each gave by itself."""
        try:
            pairs = list(zip(self._tried(samples), joined(expected), strict=True))
        except RuntimeError:  # a shape that does not fit
            return False
        return all(one.shape == other.shape and _is_close(one, other) for one, other in pairs)


def _readers(exported: ExportedProgram) -> dict[Node, list[tuple[Node, bool]]]:
    """Return by what is trained which operators read it, and whether as a bias or shift."""
    found: dict[Node, list[tuple[Node, bool]]] = {}
    for node in exported.graph.nodes:
        for index, place in enumerate(_PLACES.get(node.target, ())):
            parameter = _argument(node, place)
            if isinstance(parameter, Node) and parameter.op == "placeholder":
                found.setdefault(parameter, []).append((node, index == 1))
    return found


def _constant_nodes(exported: ExportedProgram) -> dict[Node, torch.Tensor]:
    constants = constants_of(exported)
    nodes = exported.graph.find_nodes(op="placeholder")
    return {node: constants[node.name] for node in nodes if node.name in constants}


def _foldable_norms(exported: ExportedProgram) -> dict[Node, Node]:
    """Return the batch norms of a convolution's output alone, and that convolution."""
    constants, found = constants_of(exported), {}
    for node in exported.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        source = operand(node)
        if node.args[5] or None in node.args[3:5] or source.target not in CONVOLUTIONS:
            continue
        weight = operand(source, 1)
        if weight.name in constants and len(weight.users) == len(source.users) == 1:
            found[node] = source
    return found


def _dead_after(exported: ExportedProgram, results: Sequence[Node]) -> dict[Node, list[Node]]:
    """Return by node whose values nothing reads after it, and are no results."""
    found: dict[Node, list[Node]] = {}
    seen = set(results)
    for node in reversed(exported.graph.nodes):
        last = [source for source in node.all_input_nodes if source not in seen]
        seen.update(last)
        if node.op == "call_function":
            found[node] = [*last, *([] if node in seen else [node])]
    return found


def _reading_inputs(exported: ExportedProgram) -> set[Node]:
    """Return the nodes that depend on an input of the model."""
    names = user_input_names(exported)
    found: set[Node] = set()
    for node in exported.graph.nodes:
        if node.name in names or found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _argument(node: Node, place: int) -> Any:
    return node.args[place] if len(node.args) > place else None


def _root_mean_square(value: torch.Tensor) -> float:
    return float(value.float().square().mean().sqrt()) if value.numel() else 0.0


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    greatest = float(other.abs().max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * greatest)
