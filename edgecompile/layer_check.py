"""Layer by layer: feed every quantized layer the reference's own inputs, in the engine, and compare.

End to end, one rounding flip in an early layer grows to the size of the quantization noise; so nothing can
be proven about arithmetic there. Here all layers stand side by side in one program, each with inputs and
an output of its own, and that program is lowered and run as the model itself was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.artifact_run import Inputs, Place
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.program import QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.layers import (
    DEQUANTIZE,
    QUANTIZE,
    QuantizedLayer,
    constants_of,
    parameters_of,
    quantized_layers,
)
from edgecompile.quantize.reference import Reference, dequantize_tensor
from edgecompile.target import EmitSettings, ValidationSettings

_Seen = tuple[QuantizedLayer, tuple[torch.Tensor, ...], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """How one layer in one engine compares with the reference, over all samples.

    Attributes:
        exact: Whether bit equality was required.
        identical: The share of output elements, 0 to 1, that are equal.
        within: The share within the allowed number of quantization steps.
        largest_step: The largest difference, in quantization steps.
        passed: Whether the layer meets the target's thresholds.
    """

    name: str
    kind: str
    where: str
    exact: bool
    identical: float
    within: float
    largest_step: int
    passed: bool


def check_layers(
    exported: ExportedProgram,
    emitter_settings: EmitSettings,
    samples: Sequence[Sample],
    settings: ValidationSettings,
    progress: Progress,
    *,
    place: Place,
) -> tuple[LayerResult, ...]:
    """Compare every quantized layer of a program with the reference in the engine of one format.

    Args:
        exported: The program.
        emitter_settings: Of the format.
        samples: Inputs of the program.
        settings: The thresholds.
        progress: Is told of each sample.
        place: Where the layers run.

    Raises:
        LoweringFailedError: The layers cannot be lowered on their own.
        EngineFailedError: The engine rejects them.
        RunnerFailedError: A native runner crashed.
    """
    emitter = load_emitter(emitter_settings.emitter)
    engine = load_engine(emitter.engine)
    reference = Reference(exported, engine.arithmetic)
    if not reference.layers:
        return ()
    progress.start(f"lower the layers of {emitter.format} one by one")
    emitted = emitter.emit(explode(exported), emitter_settings)
    progress.finish(f"{len(reference.layers)} layers")
    run = place(emitted.format, emitted.engine, emitted.data)
    tallies = [_Tally(layer, settings.max_step_error) for layer in reference.layers]
    progress.start(f"compare the layers of {run.name}", len(samples))
    # One after another: what all samples' layers read would not fit the memory.
    fed, compared = itertools.tee(_observe(reference, sample) for sample in samples)
    for outputs, seen in zip(run.run(_inputs(layers) for layers in fed), compared, strict=True):
        for tally, output, (_, _, expected) in zip(tallies, outputs, seen, strict=True):
            tally.add(output, expected)
        progress.advance()
    results = tuple(tally.result(tally.layer.kind in engine.exact_kinds, settings) for tally in tallies)
    failed = sum(not result.passed for result in results)
    progress.finish(f"{len(results) - failed} of {len(results)} layers as the reference")
    return results


def _observe(reference: Reference, sample: Sample) -> list[_Seen]:
    """Return every layer with its int8 inputs and output, in order."""
    seen: list[_Seen] = []
    with torch.no_grad():
        reference.run(sample.inputs, lambda layer, inputs, output: seen.append((layer, inputs, output)))
    return seen


def _inputs(seen: Sequence[_Seen]) -> Inputs:
    return tuple(value for layer, inputs, _ in seen for value in _real(layer, inputs))


class _Tally:
    """Counts how a layer's outputs differ, over samples."""

    def __init__(self, layer: QuantizedLayer, max_step_error: int) -> None:
        self.layer = layer
        self._max_step_error = max_step_error
        self._total = self._equal = self._within = self._largest = 0

    def add(self, output: torch.Tensor, expected: torch.Tensor) -> None:
        """Count one sample: the engine's real output against the reference's int8 one."""
        parameters = self.layer.output_parameters
        steps = torch.round(output.double() / parameters.scale) + parameters.zero_point
        difference = (steps - expected.double()).abs().nan_to_num(nan=256.0)
        self._total += difference.numel()
        self._equal += int((difference == 0).sum())
        self._within += int((difference <= self._max_step_error).sum())
        self._largest = max(self._largest, int(difference.max()))

    def result(self, exact: bool, settings: ValidationSettings) -> LayerResult:
        """Return the layer's row."""
        identical, within = self._equal / self._total, self._within / self._total
        return LayerResult(
            name=self.layer.name,
            kind=self.layer.kind,
            where=self.layer.where,
            exact=exact,
            identical=identical,
            within=within,
            largest_step=self._largest,
            passed=identical == 1.0 if exact else within >= settings.min_share_within_steps,
        )


def _real(layer: QuantizedLayer, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the real values of a layer's int8 inputs; quantizing them again gives the same integers."""
    return [
        dequantize_tensor(value, parameters)
        for value, parameters in zip(inputs, layer.input_parameters, strict=True)
    ]


def explode(exported: ExportedProgram) -> QuantizedProgram:
    """Return a program of all quantized layers side by side, each with inputs and an output of its own."""
    constants = constants_of(exported)
    root = torch.nn.Module()
    graph = Graph()
    outputs: list[Node] = []
    examples: list[torch.Tensor] = []
    layers = quantized_layers(exported)
    placeholders: list[list[Node]] = []  # they come first in a graph
    for index, layer in enumerate(layers):
        row = []
        for position, node in enumerate(layer.inputs):
            row.append(graph.placeholder(f"layer_{index}_input_{position}"))
            sizes = [1 if isinstance(size, torch.SymInt) else size for size in node.meta["val"].shape]
            examples.append(torch.zeros(sizes))
        placeholders.append(row)
    for layer, row in zip(layers, placeholders, strict=True):
        outputs.append(_copy_layer(graph, root, constants, layer, row))
    graph.output(tuple(outputs))
    program = torch.export.export(GraphModule(root, graph), tuple(examples))
    return QuantizedProgram(
        name="layers",
        precision="int8",
        exported=program,
        float_weight_bytes=0,
        unquantized=(),
        steps=(),
    )


def _copy_layer(
    graph: Graph,
    root: torch.nn.Module,
    constants: dict[str, torch.Tensor],
    layer: QuantizedLayer,
    placeholders: Sequence[Node],
) -> Node:
    copies: dict[Node, Node] = {}
    operands = []
    for placeholder, node in zip(placeholders, layer.inputs, strict=True):
        arguments = _parameters(node)
        quantized = graph.call_function(QUANTIZE, (placeholder, *arguments))
        operands.append(graph.call_function(DEQUANTIZE, (quantized, *arguments)))
        copies[node] = operands[-1]

    def copy(node: Node) -> Node:
        if node not in copies:
            if node.op == "placeholder":
                root.register_buffer(node.name, constants[node.name])
                copies[node] = graph.get_attr(node.name)
            else:
                copies[node] = graph.node_copy(node, copy)
        return copies[node]

    last = layer.compute if layer.clamp is None else layer.clamp
    if len(operands) == 2 and layer.inputs[0] is layer.inputs[1]:
        copies[layer.compute] = graph.call_function(layer.compute.target, tuple(operands))  # type: ignore[arg-type]
    result = graph.call_function(QUANTIZE, (copy(last), *_parameters(layer.output)))
    return graph.call_function(DEQUANTIZE, (result, *_parameters(layer.output)))


def _parameters(node: Node) -> tuple[float | int | torch.dtype, ...]:
    parameters = parameters_of(node)
    return (
        parameters.scale,
        parameters.zero_point,
        parameters.quant_min,
        parameters.quant_max,
        torch.int8,
    )
