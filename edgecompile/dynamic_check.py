"""Layer by layer where activations are quantized at run time: are the engine's integers the reference's?

Such a layer's output is a float, but it is one integer sum times a scale. So the difference of two outputs,
divided by what one integer more makes, tells how far apart the sums are: not at all, if every activation was
rounded to the same step and every product was added exactly.

Engines multiply by a scale that can differ in the last bit, so about one activation in a million, half way
between two steps, goes to the other one. All outputs of its row then differ by just its weights: that is
recognized, and is a difference of one step. Anything else is an error.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from edgecompile.artifact_run import Inputs
from edgecompile.exploded import Exploded
from edgecompile.layer_tally import LayerTally
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.dynamic_layers import DynamicLayer
from edgecompile.quantize.exact_dynamic import ExactDynamicLayer

# A layer rounds four times in float32: the sum, two scales, the bias.
_FLOAT32_ROUNDINGS = 4 * 2.0**-24
_NO_NUMBER = 2.0**31  # what NaN and infinity count as
_FEW = 8  # outputs that tell most columns of a weight apart


class DynamicTally(LayerTally):
    """A layer that is quantized at run time: counts how its sums differ."""

    layer: DynamicLayer

    def __init__(self, dynamic: ExactDynamicLayer, max_step_error: int, arithmetic: Arithmetic) -> None:
        super().__init__(dynamic.layer, dynamic.sources, exact=False)
        self._dynamic = dynamic
        self._max_step_error = max_step_error
        self._arithmetic: Arithmetic = arithmetic

    def explode(self, exploded: Exploded, inputs: list[Node]) -> Node:
        """Copy the layer with the choice of its range."""
        return exploded.copy(self.layer.compute, {self.layer.source: inputs[0]})

    def fed(self, inputs: Inputs) -> Inputs:
        """Return the inputs: they are in float."""
        return inputs

    def add(self, output: torch.Tensor, inputs: Inputs, expected: torch.Tensor) -> None:
        """Count one sample."""
        sums = self._difference(output, inputs[0], expected)  # (rows, N)
        largest = sums.abs().amax(1)
        for row in largest.nonzero().flatten().tolist():
            if is_one_activation(sums[row], self.layer.weights.weight):
                largest[row] = 1
        self.count(
            total=sums.numel(),
            equal=int((sums == 0).sum()),
            within=int((largest <= self._max_step_error).sum()) * sums.shape[1],
            largest=int(largest.max()),
        )

    def _difference(self, output: torch.Tensor, value: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return by how many integers the sums differ, as (rows, N)."""
        expected, bias = reference.double(), self.layer.weights.bias
        magnitude = expected.abs() if bias is None else expected.abs() + 2 * bias.double().abs()
        difference = output.double() - expected
        beyond_rounding = (difference.abs() - _FLOAT32_ROUNDINGS * magnitude).clamp_min(0)
        unit = self._dynamic.unit(value, self._arithmetic)
        steps = torch.round(beyond_rounding / unit).nan_to_num(nan=_NO_NUMBER, posinf=_NO_NUMBER)
        return (steps * difference.sign()).flatten(end_dim=-2) if steps.dim() > 1 else steps[None]


def is_one_activation(sums: torch.Tensor, weight: torch.Tensor) -> bool:
    """Tell whether sums differ as they do when one activation is one step higher or lower.

    Args:
        sums: The differences of one row, (N,).
        weight: int8 (N, K).
    """
    for change in (sums, -sums):
        first = (weight[:_FEW] == change[:_FEW, None]).all(0)
        if bool((weight[:, first] == change[:, None]).all(0).any()):
            return True
    return False
