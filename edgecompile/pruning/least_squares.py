"""Recovery in closed form: each layer's weights are fitted so that it gives what it gave before.

Layer after layer, what it gave in the whole program is regressed on what it reads in the pruned one, as in He
et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168, section 3.1, here
with ridge regression towards the weights that stayed. All layers before it are as they are in the end, so
that errors do not add up. No labels and no gradients are needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.graph_edit import ProgramEditor, operand
from edgecompile.layer_rows import TRANSPOSED, groups_of, rows_read, weight_of_rows, weight_rows
from edgecompile.progress import Progress
from edgecompile.pruning.layer_inputs import LAYERS
from edgecompile.pruning.pruned_program import PrunedProgram
from edgecompile.quantize.node_values import SampleValues, computed_value

# What may pull the weights back to those that stayed,
# as shares of the mean square of what they meet: held-out samples choose for each layer.
_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)
# One of so many samples chooses.
_HELD_OUT = 5
# Positions of a sample that are used, drawn at random: neighbours say much the same.
_POSITIONS = 256
# Layers with longer rows stay as they are: the time grows with the cube of the length.
_LONGEST_ROW = 5000


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """A layer's weight, and the bias that goes with it."""

    weight: torch.Tensor
    bias: torch.Tensor


def fit_layers(pruned: PrunedProgram, samples: Sequence[Sample], progress: Progress) -> PrunedProgram:
    """Return the pruned program with fitted weights and biases; a layer without a bias gets one.

    Args:
        pruned: The program.
        samples: The values of all of them that are still needed are held at once.
        progress: Is told of each layer.
    """
    with torch.no_grad():
        return replace(pruned, exported=_Fit(pruned, samples).run(progress))


class _Fit:
    def __init__(self, pruned: PrunedProgram, samples: Sequence[Sample]) -> None:
        self._pruned, self._whole = pruned.exported, pruned.whole
        self._groups, self._keep = pruned.groups, pruned.keep
        inputs = [sample.inputs for sample in samples]
        self._own, self._before = (
            SampleValues(program, inputs, {node: node.all_input_nodes for node in program.graph.nodes})
            for program in (pruned.exported, pruned.whole)
        )
        self._generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact

    def run(self, progress: Progress) -> ExportedProgram:
        """Walk both programs side by side."""
        pairs = list(zip(_calls(self._pruned), _calls(self._whole), strict=True))
        layers = {node for node, _ in pairs if _has_own_weight(node)}
        progress.start("fit layers", len(layers))
        fitted: dict[str, _Fitted] = {}
        for node, twin in pairs:
            found = None
            if node in layers:
                found = self._fit(node, twin)
                progress.advance()
            self._before.put(twin, [computed_value(twin, known) for known in self._before.known])
            if found is None:
                self._own.put(node, [computed_value(node, known) for known in self._own.known])
            else:
                fitted[node.name] = found
                self._own.put(node, [_given(node, known, found) for known in self._own.known])
        progress.finish(f"{len(fitted)} of {len(layers)} layers, {len(self._own.known)} samples")
        return _with_layers(self._pruned, fitted)

    def _fit(self, node: Node, twin: Node) -> _Fitted | None:
        """Return what a layer's weight should be; None where that cannot be told."""
        known = self._own.known[0]
        weight, bias = known[operand(node, 1)], known[operand(node, 2)] if _has_bias(node) else None
        start = weight_rows(node, weight, groups_of(node))
        wanted_weight, input_indices = self._wanted_weight(node, twin)
        if start.shape[2] > _LONGEST_ROW:
            return None
        moments = [_Moments(*start.shape), _Moments(*start.shape)]
        for index, (own, before) in enumerate(zip(self._own.known, self._before.known, strict=True)):
            value = before[operand(twin)]
            if input_indices is not None:
                value = value.index_select(1, input_indices)
            read = rows_read(node, own[operand(node)], tuple(weight.shape[2:]))
            read_before = rows_read(node, value, tuple(weight.shape[2:]))
            if read is None or read_before is None:
                return None
            drawn = torch.randperm(len(read), generator=self._generator)[:_POSITIONS]
            wanted = torch.einsum("ngl,grl->ngr", read_before[drawn], wanted_weight)
            moments[index % _HELD_OUT == _HELD_OUT - 1].add(read[drawn], wanted)
        rows, shift = _regressed(start, *moments)
        if node.target in TRANSPOSED:  # all taps of an output channel share its bias
            shift = shift.reshape(-1, math.prod(weight.shape[2:])).mean(1)
        return _Fitted(
            weight=weight_of_rows(node, rows, weight.shape), bias=shift if bias is None else bias + shift
        )

    def _wanted_weight(self, node: Node, twin: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the rows of the whole program's weight for what the layer still gives.

        They are multiplied with all channels that the layer read before; where whole groups of them are gone,
        with those whose indices are returned.
        """
        weight = self._before.known[0][operand(twin, 1)]
        input_axis = 0 if node.target in TRANSPOSED else 1
        lost_groups = groups_of(node) != groups_of(twin)
        for labels in self._groups.of_constants.get(operand(twin, 1), ()):
            for axis, indices in labels.kept(self._keep).items():
                if axis != input_axis or lost_groups:
                    weight = weight.index_select(axis, indices)
        inputs = self._groups.of_values[operand(twin)].kept(self._keep)[1] if lost_groups else None
        return weight_rows(node, weight, groups_of(node)), inputs


class _Moments:
    """Moments of what rows are multiplied with, (positions, groups, length), and of what they should give."""

    def __init__(self, groups: int, outputs: int, length: int) -> None:
        self.count = 0
        self.read = torch.zeros(groups, length, dtype=torch.float64)
        self.wanted = torch.zeros(groups, outputs, dtype=torch.float64)
        self.within = torch.zeros(groups, length, length, dtype=torch.float64)
        self.across = torch.zeros(groups, length, outputs, dtype=torch.float64)

    def add(self, read: torch.Tensor, wanted: torch.Tensor) -> None:
        """Take positions into account: (positions, groups, length) and (positions, groups, outputs)."""
        self.count += len(read)
        self.read += read.sum(0)
        self.wanted += wanted.sum(0)
        columns = read.permute(1, 2, 0)  # (groups, length, positions)
        self.within += columns @ read.transpose(0, 1)
        self.across += columns @ wanted.transpose(0, 1)

    def joined(self, other: _Moments) -> _Moments:
        """Return the moments of both."""
        result = _Moments(len(self.read), self.wanted.shape[1], self.read.shape[1])
        for name in ("count", "read", "wanted", "within", "across"):
            setattr(result, name, getattr(self, name) + getattr(other, name))
        return result

    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the covariances, (groups, length, length) and (groups, length, outputs)."""
        mean, wanted = self.read / self.count, self.wanted / self.count
        within = self.within / self.count - mean[:, :, None] * mean[:, None, :]
        return within, self.across / self.count - mean[:, :, None] * wanted[:, None, :]


def _regressed(start: torch.Tensor, seen: _Moments, held: _Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows, (groups, outputs, length), and the bias, (groups * outputs,), that give what is wanted."""
    everything = seen.joined(held)
    damping = (
        min(_DAMPINGS, key=lambda share: _error(_ridge(start, seen, share), held)) if held.count else 1e-2
    )
    rows = _ridge(start, everything, damping)
    shift = everything.wanted - torch.einsum("grl,gl->gr", rows, everything.read)
    return rows.to(start.dtype), (shift / everything.count).flatten().to(start.dtype)


def _ridge(start: torch.Tensor, moments: _Moments, damping: float) -> torch.Tensor:
    """Return the rows with the least squared error, pulled towards where they start."""
    within, across = moments.centred()
    rows = start.double()
    pull = damping * within.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    damped = within + pull[:, None, None] * torch.eye(within.shape[1], dtype=torch.float64)
    missing = across - within @ rows.transpose(1, 2)
    return rows + torch.cholesky_solve(missing, torch.linalg.cholesky(damped)).transpose(1, 2)


def _error(rows: torch.Tensor, moments: _Moments) -> float:
    """Return the squared error of rows, but for what is the same for all."""
    within, across = moments.centred()
    return float(((rows @ within) * rows).sum() - 2 * (rows.transpose(1, 2) * across).sum())


def _calls(exported: ExportedProgram) -> list[Node]:
    return [node for node in exported.graph.nodes if node.op == "call_function"]


def _has_own_weight(node: Node) -> bool:
    """Tell whether a layer has a weight that no other has, and reads anything but the model's inputs."""
    if node.target not in LAYERS or operand(node).op == "placeholder" or not isinstance(node.args[1], Node):
        return False
    return node.args[1].op == "placeholder" and len(node.args[1].users) == 1


def _has_bias(node: Node) -> bool:
    return len(node.args) > 2 and isinstance(node.args[2], Node)


def _given(node: Node, known: dict[Node, Any], fitted: _Fitted) -> torch.Tensor:
    """Return what a layer gives with another weight and bias."""
    assert callable(node.target)
    return node.target(known[operand(node)], fitted.weight, fitted.bias, *node.args[3:], **node.kwargs)  # type: ignore[no-any-return]


def _with_layers(exported: ExportedProgram, fitted: dict[str, _Fitted]) -> ExportedProgram:
    """Return a program with other weights and biases of layers, by their names."""
    editor = ProgramEditor(exported)
    for node in editor.calls(*LAYERS):
        if node.name not in fitted:
            continue
        found = fitted[node.name]
        editor.set_constant(operand(node, 1), found.weight)
        bias = editor.add_constant(f"{node.name}_bias", found.bias)
        node.args = (*node.args[:2], bias, *node.args[3:])
    return editor.finish()
