"""Layer by layer: feed every quantized layer the reference's own inputs, in the engine, and compare.

End to end, one rounding flip in an early layer grows to the size of the quantization noise; so nothing can
be proven about arithmetic there. Here all layers stand side by side in one program, each with inputs and
an output of its own, and that program is lowered and run as the model itself was.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.artifact_run import Inputs, Place
from edgecompile.dataset import Sample
from edgecompile.dynamic_check import DynamicTally
from edgecompile.dynamic_size import signature_of_shapes
from edgecompile.emitter import load_emitter
from edgecompile.engine import load_engine
from edgecompile.exploded import Exploded
from edgecompile.layer_tally import LayerResult, LayerTally
from edgecompile.program import QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, Layer, QuantizedLayer, parameters_of
from edgecompile.quantize.reference import Reference, dequantize_tensor
from edgecompile.target import EmitSettings, ValidationSettings

_Seen = dict[Layer, tuple[Inputs, torch.Tensor]]
"""What each layer was given, and what the reference made of it."""


def check_layers(
    exported: ExportedProgram,
    emitter_settings: EmitSettings,
    samples: Sequence[Sample],
    settings: ValidationSettings,
    progress: Progress,
    *,
    place: Place,
    programs: LayerPrograms | None = None,
) -> tuple[LayerResult, ...]:
    """Compare every quantized layer of a program with the reference in the engine of one format.

    Args:
        exported: The program.
        emitter_settings: Of the format.
        samples: Inputs of the program.
        settings: The thresholds; where a layer is quantized at run time, a step is one integer of its sums.
        progress: Is told of each sample.
        place: Where the layers run.
        programs: Those of the layers of `exported`, where several formats are checked.

    Raises:
        LoweringFailedError: The layers cannot be lowered on their own.
        EngineFailedError: The engine rejects them.
        RunnerFailedError: A native runner crashed.
    """
    emitter = load_emitter(emitter_settings.emitter)
    engine = load_engine(emitter.engine)
    reference = Reference(exported, engine.arithmetic)
    steps = settings.max_step_error
    tallies: list[LayerTally] = [
        StaticTally(layer, steps, exact=layer.kind in engine.exact_kinds) for layer in reference.layers
    ]
    tallies += [DynamicTally(layer, steps, engine.arithmetic) for layer in reference.dynamic]
    if not tallies:
        return ()
    programs = programs or LayerPrograms(exported)
    for group in _groups(samples):
        progress.start(f"lower the layers of {emitter.format} one by one")
        emitted = emitter.emit(programs.of(tallies, group[0].inputs), emitter_settings)
        progress.finish(f"{len(tallies)} layers{_sizes_text(samples, group)}")
        run = place(emitted.format, emitted.engine, emitted.data)
        progress.start(f"compare the layers of {run.name}", len(group))
        # One after another: what all samples' layers read would not fit the memory.
        fed, compared = itertools.tee(_observe(reference, sample) for sample in group)
        inputs = (
            tuple(value for tally in tallies for value in tally.fed(seen[tally.layer][0])) for seen in fed
        )
        for outputs, seen in zip(run.run(inputs), compared, strict=True):
            for tally, output in zip(tallies, outputs, strict=True):
                tally.add(output, *seen[tally.layer])
            progress.advance()
        progress.finish(f"{len(group)} samples")
    progress.start(f"layers of {emitter.format}")
    results = tuple(tally.result(settings) for tally in tallies)
    progress.finish(f"{sum(result.passed for result in results)} of {len(results)} layers as the reference")
    return results


def _observe(reference: Reference, sample: Sample) -> _Seen:
    seen: _Seen = {}
    with torch.no_grad():
        reference.run(sample.inputs, lambda layer, inputs, output: seen.update({layer: (inputs, output)}))
    return seen


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples of the smallest and those of the largest size; all, where they have one size.

    The layers are lowered anew for each size, for on their own they do not know whose sizes vary together.
    """
    by_size: dict[tuple[tuple[int, ...], ...], list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(signature_of_shapes(sample.inputs), []).append(sample)
    ordered = sorted(by_size.values(), key=lambda group: sum(value.numel() for value in group[0].inputs))
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def _sizes_text(samples: Sequence[Sample], group: Sequence[Sample]) -> str:
    shapes = [list(value.shape) for value in group[0].inputs]
    return "" if len(group) == len(samples) else f", inputs of {' and '.join(map(str, shapes))}"


class LayerPrograms:
    """The programs of the layers side by side, one for each size of the inputs; all formats lower them."""

    def __init__(self, exported: ExportedProgram) -> None:
        self._exported = exported
        self._made: dict[tuple[tuple[int, ...], ...], QuantizedProgram] = {}

    def of(self, tallies: Sequence[LayerTally], sample: Inputs) -> QuantizedProgram:
        """Return the program in which each layer has inputs and an output of its own.

        Args:
            tallies: Compare the layers, all of the program.
            sample: Inputs of the program: those of the layers have the sizes that they have for it.
        """
        sizes = signature_of_shapes(sample)
        if sizes not in self._made:
            exploded = Exploded(self._exported, sample, [tally.sources for tally in tallies])
            outputs = [
                tally.explode(exploded, own) for tally, own in zip(tallies, exploded.inputs, strict=True)
            ]
            is_dynamic = any(isinstance(tally, DynamicTally) for tally in tallies)
            self._made[sizes] = exploded.program(outputs, "int8-dynamic" if is_dynamic else "int8")
        return self._made[sizes]


class StaticTally(LayerTally):
    """A layer with fixed ranges: the difference of two outputs is so many steps of its output's scale."""

    layer: QuantizedLayer

    def __init__(self, layer: QuantizedLayer, max_step_error: int, *, exact: bool) -> None:
        super().__init__(layer, layer.inputs, exact=exact)
        self._max_step_error = max_step_error

    def explode(self, exploded: Exploded, inputs: list[Node]) -> Node:
        """Copy the layer between quantize and dequantize nodes of its own."""
        layer = self.layer
        copies: dict[Node, Node] = {}
        operands = []
        for value, node in zip(inputs, layer.inputs, strict=True):
            quantized = exploded.call(QUANTIZE, value, *_parameters(node))
            operands.append(exploded.call(DEQUANTIZE, quantized, *_parameters(node)))
            copies[node] = operands[-1]
        if len(copies) < len(operands):  # one tensor is several operands
            is_cat = layer.kind == "cat"
            arguments = ([*operands], *layer.compute.args[1:]) if is_cat else tuple(operands)
            assert callable(layer.compute.target)
            copies[layer.compute] = exploded.call(layer.compute.target, *arguments)
        last = exploded.copy(layer.compute if layer.clamp is None else layer.clamp, copies)
        result = exploded.call(QUANTIZE, last, *_parameters(layer.output))
        return exploded.call(DEQUANTIZE, result, *_parameters(layer.output))

    def fed(self, inputs: Inputs) -> Inputs:
        """Return the real values of int8 inputs; quantizing them again gives the same integers."""
        return tuple(map(dequantize_tensor, inputs, self.layer.input_parameters))

    def add(self, output: torch.Tensor, inputs: Inputs, expected: torch.Tensor) -> None:
        """Count one sample: the engine's real output against the reference's int8 one."""
        parameters = self.layer.output_parameters
        steps = torch.round(output.double() / parameters.scale) + parameters.zero_point
        difference = (steps - expected.double()).abs().nan_to_num(nan=256.0)
        self.count(
            total=difference.numel(),
            equal=int((difference == 0).sum()),
            within=int((difference <= self._max_step_error).sum()),
            largest=int(difference.max()),
        )


def _parameters(node: Node) -> tuple[float | int | torch.dtype, ...]:
    parameters = parameters_of(node)
    return (
        parameters.scale,
        parameters.zero_point,
        parameters.quant_min,
        parameters.quant_max,
        torch.int8,
    )
