"""Layer by layer where activations are quantized at run time: are the engine's integers the reference's?

Such a layer's output is a float, but it is one integer sum times a scale. So the difference of two outputs,
divided by what one integer more makes, tells how far apart the sums are: not at all, if every activation was
rounded to the same step and every product was added exactly.

Engines multiply by a scale that can differ in the last bit, so about one activation in a million, half way
between two steps, goes to the other one. All outputs of its row then differ by just its weights: that is
recognized, and is a difference of one step. Anything else is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from edgecompile.artifact_run import Place
from edgecompile.dataset import Sample
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.layer_check import LayerResult
from edgecompile.program import QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.arithmetic import Arithmetic
from edgecompile.quantize.dynamic_layers import DynamicLayer, dynamic_layers
from edgecompile.quantize.exact_dynamic import ExactDynamicLayer
from edgecompile.quantize.layers import constants_of
from edgecompile.quantize.reference import Reference
from edgecompile.target import EmitSettings, ValidationSettings

# A layer rounds four times in float32: the sum, two scales, the bias.
_FLOAT32_ROUNDINGS = 4 * 2.0**-24
_NO_NUMBER = 2.0**31  # what NaN and infinity count as
_FEW = 8  # outputs that tell most columns of a weight apart


@dataclass(frozen=True)
class _Seen:
    """What one layer was given by one sample, and what the reference made of it."""

    value: torch.Tensor
    expected: torch.Tensor


def check_dynamic_layers(
    exported: ExportedProgram,
    emitter_settings: EmitSettings,
    samples: Sequence[Sample],
    settings: ValidationSettings,
    progress: Progress,
    *,
    place: Place,
) -> tuple[LayerResult, ...]:
    """Compare every layer that is quantized at run time with the reference, in the engine of one format.

    Args:
        exported: The program.
        emitter_settings: Of the format.
        samples: Inputs of the program.
        settings: The thresholds; a step is one integer of a layer's sums.
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
    if not reference.dynamic:
        return ()
    progress.start(f"lower the layers of {emitter.format} one by one")
    emitted = emitter.emit(explode_dynamic(exported), emitter_settings)
    progress.finish(f"{len(reference.dynamic)} layers")
    run = place(emitted.format, emitted.engine, emitted.data)
    tallies = [_Tally(layer, engine.arithmetic, settings.max_step_error) for layer in reference.dynamic]
    progress.start(f"compare the layers of {run.name}", len(samples))
    fed, compared = itertools.tee(_observe(reference, sample) for sample in samples)
    inputs = (tuple(seen.value for seen in layers) for layers in fed)
    for outputs, layers in zip(run.run(inputs), compared, strict=True):
        for tally, output, seen in zip(tallies, outputs, layers, strict=True):
            tally.add(output, seen)
        progress.advance()
    results = tuple(tally.result(settings) for tally in tallies)
    progress.finish(f"{sum(result.passed for result in results)} of {len(results)} layers as the reference")
    return results


def _observe(reference: Reference, sample: Sample) -> list[_Seen]:
    """Return what every layer was given and gave, in order."""
    seen: list[_Seen] = []
    with torch.no_grad():
        reference.run(sample.inputs, lambda _, inputs, output: seen.append(_Seen(inputs[0], output)))
    return seen


class _Tally:
    """Counts how a layer's sums differ, over samples."""

    def __init__(self, exact: ExactDynamicLayer, arithmetic: Arithmetic, max_step_error: int) -> None:
        self._exact = exact
        self._arithmetic: Arithmetic = arithmetic
        self._max_step_error = max_step_error
        self._total = self._equal = self._within = self._largest = 0

    def add(self, output: torch.Tensor, seen: _Seen) -> None:
        """Count one sample."""
        sums = self._difference(output, seen)  # (rows, N)
        weight = self._exact.layer.weights.weight
        largest = sums.abs().amax(1)
        for row in largest.nonzero().flatten().tolist():
            if is_one_activation(sums[row], weight):
                largest[row] = 1
        self._total += sums.numel()
        self._equal += int((sums == 0).sum())
        self._within += int((largest <= self._max_step_error).sum()) * sums.shape[1]
        self._largest = max(self._largest, int(largest.max()))

    def _difference(self, output: torch.Tensor, seen: _Seen) -> torch.Tensor:
        """Return by how many integers the sums differ, as (rows, N)."""
        expected, bias = seen.expected.double(), self._exact.layer.weights.bias
        magnitude = expected.abs() if bias is None else expected.abs() + 2 * bias.double().abs()
        difference = output.double() - expected
        beyond_rounding = (difference.abs() - _FLOAT32_ROUNDINGS * magnitude).clamp_min(0)
        unit = self._exact.unit(seen.value, self._arithmetic)
        steps = torch.round(beyond_rounding / unit).nan_to_num(nan=_NO_NUMBER, posinf=_NO_NUMBER)
        return (steps * difference.sign()).flatten(end_dim=-2) if steps.dim() > 1 else steps[None]

    def result(self, settings: ValidationSettings) -> LayerResult:
        """Return the layer's row."""
        layer = self._exact.layer
        within = self._within / self._total
        return LayerResult(
            name=layer.name,
            kind=layer.kind,
            where=layer.where,
            exact=False,
            identical=self._equal / self._total,
            within=within,
            largest_step=self._largest,
            passed=within >= settings.min_share_within_steps,
        )


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


def explode_dynamic(exported: ExportedProgram) -> QuantizedProgram:
    """Return a program of all layers side by side, each with an input and an output of its own."""
    layers = dynamic_layers(exported)
    constants = constants_of(exported)
    root, graph = torch.nn.Module(), Graph()
    inputs = [graph.placeholder(f"layer_{index}_input") for index in range(len(layers))]
    outputs = [
        _copy_layer(graph, root, constants, layer, value) for layer, value in zip(layers, inputs, strict=True)
    ]
    graph.output(tuple(outputs))
    program = torch.export.export(GraphModule(root, graph), tuple(_examples(layers)))
    return QuantizedProgram(
        name="layers",
        precision="int8-dynamic",
        exported=program,
        float_weight_bytes=0,
        unquantized=(),
        steps=(),
    )


def _examples(layers: Sequence[DynamicLayer]) -> Iterator[torch.Tensor]:
    for layer in layers:
        shape = layer.source.meta["val"].shape
        yield torch.zeros([1 if isinstance(size, torch.SymInt) else size for size in shape])


def _copy_layer(
    graph: Graph,
    root: torch.nn.Module,
    constants: dict[str, torch.Tensor],
    layer: DynamicLayer,
    value: Node,
) -> Node:
    copies = {layer.source: value}

    def copy(node: Node) -> Node:
        if node not in copies:
            if node.op == "placeholder":
                root.register_buffer(node.name, constants[node.name])
                copies[node] = graph.get_attr(node.name)
            else:
                copies[node] = graph.node_copy(node, copy)
        return copies[node]

    return copy(layer.compute)
