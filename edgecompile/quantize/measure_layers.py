"""How good each quantized layer is: the program side by side with the float program that it was made from.

A layer's float value is that of its clamp, or of its computing node where it has none: what its quantize node
would read if nothing were quantized before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.dataset import Sample
from edgecompile.decibels import stored_sqnr_db
from edgecompile.graph_edit import operator_name, source_line
from edgecompile.layer_quality import LayerQuality, LayerReport, layer_report
from edgecompile.program import QuantizedProgram
from edgecompile.quantize.layers import (
    QuantizationParameters,
    QuantizedLayer,
    computing_nodes,
    described,
)
from edgecompile.quantize.node_values import all_values
from edgecompile.quantize.reference import (
    Reference,
    dequantize_tensor,
    quantize_tensor,
    unclamped_steps,
)
from edgecompile.quantize.side_by_side import float_nodes, input_nodes, real_node

_CONSTANT = "its value does not depend on the model's inputs"
# So many values at a time stay in a core's cache through the steps that compare them.
_CHUNK = 1 << 16
_Values = dict[Node, torch.Tensor]


def measure_layers(
    program: QuantizedProgram, in_float: ExportedProgram, samples: Sequence[Sample]
) -> LayerReport:
    """Return a row for each statically quantized layer and each operator in float.

    One sample after another runs through the float program, the reference, and each layer alone in the
    reference's arithmetic.

    Args:
        program: The quantized program.
        in_float: The program that the quantizer saw.
        samples: Inputs of the model.
    """
    reference = Reference(program.exported)
    twins = float_nodes(program.exported, in_float) if reference.layers else {}
    tallies = {layer.compute: _Tally(layer) for layer in reference.layers if layer.compute in twins}

    def compare(
        values: _Values, layer: QuantizedLayer, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> None:
        if layer.compute not in tallies:
            return
        own_inputs = [
            # A constant is the same integers in both.
            quantize_tensor(values[source], parameters) if source in values else value
            for source, parameters, value in zip(
                map(real_node, layer.inputs), layer.input_parameters, inputs, strict=True
            )
        ]
        own_output = reference.compute(layer, own_inputs)
        tallies[layer.compute].add(values[layer.nodes[-1]], output, own_output)

    measured = samples if tallies else ()
    with torch.no_grad():
        for sample in measured:
            found = all_values(in_float, sample.inputs)
            values = {node: found[twin] for node, twin in twins.items()}
            reference.run(sample.inputs, partial(compare, values))
    return layer_report(_rows(program, reference.layers, tallies), len(measured))


class _Tally:
    """Adds up how one layer's outputs differ from float, over samples."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self._layer = layer
        self._signal = self._noise = self._own_noise = 0.0
        self._minimum, self._maximum = math.inf, -math.inf
        self._clipped = self._total = 0

    def add(self, value: torch.Tensor, output: torch.Tensor, own_output: torch.Tensor) -> None:
        """Count one sample: the float output, and the int8 ones of the program and of the layer alone."""
        parts = (torch.split(tensor.flatten(), _CHUNK) for tensor in (value, output, own_output))
        for part in zip(*parts, strict=True):
            self._add(*part)

    def _add(self, value: torch.Tensor, output: torch.Tensor, own_output: torch.Tensor) -> None:
        if value.numel() == 0:
            return
        parameters = self._layer.output_parameters
        self._signal += _energy(value)
        self._noise += _energy(dequantize_tensor(output, parameters).sub_(value))
        self._own_noise += _energy(dequantize_tensor(own_output, parameters).sub_(value))
        extremes = torch.stack(torch.aminmax(value))
        self._minimum = min(self._minimum, float(extremes[0]))
        self._maximum = max(self._maximum, float(extremes[1]))
        if _count_clipped(extremes, parameters):  # else nothing between them is
            self._clipped += _count_clipped(value, parameters)
        self._total += value.numel()

    def row(self, inputs: tuple[str, ...]) -> LayerQuality:
        """Return the layer's row."""
        layer, parameters = self._layer, self._layer.output_parameters
        return LayerQuality(
            name=layer.name,
            kind=layer.kind,
            where=layer.where,
            inputs=inputs,
            sqnr_db=stored_sqnr_db(self._signal, self._noise),
            own_sqnr_db=stored_sqnr_db(self._signal, self._own_noise),
            minimum=_finite(self._minimum),
            maximum=_finite(self._maximum),
            clipped_share=self._clipped / max(self._total, 1),
            scale=parameters.scale,
            zero_point=parameters.zero_point,
        )


def _energy(value: torch.Tensor) -> float:
    wide = value.double()
    return float(torch.dot(wide, wide))


def _count_clipped(value: torch.Tensor, parameters: QuantizationParameters) -> int:
    steps = unclamped_steps(value, parameters)
    return int((steps < parameters.quant_min).sum()) + int((steps > parameters.quant_max).sum())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rows(
    program: QuantizedProgram, layers: Sequence[QuantizedLayer], tallies: dict[Node, _Tally]
) -> list[LayerQuality]:
    reasons = {row.what: row.reason for row in program.unquantized}
    inside = {layer.compute: layer for layer in layers}
    names = {layer.nodes[-1]: layer.name for layer in layers}  # others read a layer's clamp
    nodes = computing_nodes(program.exported.graph)
    named = {*nodes, *input_nodes(program.exported)}
    rows = []
    for node in nodes:
        layer = inside.get(node)
        sources = map(real_node, node.all_input_nodes if layer is None else layer.inputs)
        read = tuple(names.get(source, source.name) for source in sources if source in named)
        reason = reasons.get(described(node)) if layer is None else _CONSTANT
        if node in tallies:
            rows.append(tallies[node].row(read))
        elif reason is not None:
            kind, where = operator_name(node), source_line(node)
            rows.append(LayerQuality(name=node.name, kind=kind, where=where, inputs=read, reason=reason))
    return rows
