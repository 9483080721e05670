"""Static INT8 quantization: calibrate, convert, and put the biases on the integer grid."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch.ao.quantization.fx.utils import assert_and_get_unique_device
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import ObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.utils import _assert_and_get_unique_device

from edgecompile.dataset import Dataset, spread
from edgecompile.decline import decline
from edgecompile.finding import Finding
from edgecompile.graph_edit import ProgramEditor, operator_name, source_line
from edgecompile.lift import lift
from edgecompile.program import CapturedProgram, Declined, QuantizedProgram, Reason, step_record
from edgecompile.progress import Progress
from edgecompile.quantize.annotate import EdgeQuantizer
from edgecompile.quantize.finiteness import all_finite, not_finite_error
from edgecompile.quantize.layers import computing_nodes, constant_bytes, quantized_layers
from edgecompile.quantize.observers import ActivationRange
from edgecompile.target import QuantizationSettings


def keep_float(program: CapturedProgram) -> QuantizedProgram:
    """Return the program as it is, for `--precision fp32`."""
    return QuantizedProgram(
        name=program.name,
        precision="fp32",
        exported=program.exported,
        float_weight_bytes=constant_bytes(program.exported),
        unquantized=(),
        steps=program.steps,
    )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A program with an observer at every value that is to be quantized.

    Attributes:
        model: Runs like the program, and observes.
        names: What the program's computing nodes were called.
        declined: Nodes that stay in float, by name, each with the reason.
    """

    program: CapturedProgram
    model: GraphModule
    names: list[str]
    declined: dict[str, str]


Ranges = dict[str, dict[str, torch.Tensor]]
"""The state of each activation's observer, by the observer's name."""


def prepare(program: CapturedProgram, settings: QuantizationSettings, kept: Collection[str] = ()) -> Prepared:
    """Insert the observers.

    Args:
        program: After the passes.
        settings: Say what the observers are.
        kept: The names of nodes that stay in float, layer by layer, so that a budget holds.
    """
    with _quiet():
        model = program.exported.module(check_guards=False)
        nodes = computing_nodes(model.graph)
        names = [node.name for node in nodes]
        in_order = zip(nodes, computing_nodes(program.exported.graph), strict=True)
        quantizer = EdgeQuantizer(settings, [node.name for node, own in in_order if own.name in kept])
        prepared = prepare_pt2e(model, quantizer)
    if settings.activation_observer == "mse":
        _tell_of_channels(list(_activation_calls(prepared)), program)
    return Prepared(program=program, model=prepared, names=names, declined=quantizer.declined)


def calibrate(
    prepared: Prepared, data: Dataset, settings: QuantizationSettings, progress: Progress
) -> Ranges:
    """Run samples through the observers, and return what those of the activations have seen.

    Args:
        prepared: The model with its observers.
        data: The samples; at most so many as the settings say are used, evenly spaced.
        settings: Say what the observers are.
        progress: Is told of each sample.

    Raises:
        NotFiniteValueError: A value that is observed, or an output, is not finite for a sample.
    """
    samples = spread(list(enumerate(data.samples)), settings.calibration_samples)
    activations = list(_activation_calls(prepared.model))
    observers = [observer for _, observer in activations]
    progress.start("calibrate", len(samples))
    with _quiet():
        for index, sample in samples:
            outputs = prepared.model(*sample.inputs)
            if not all_finite(observers, outputs):
                where = f"{data.spec}, sample {index}"
                raise not_finite_error(prepared.model, sample.inputs, where)
            progress.advance()
    progress.finish(f"{len(samples)} samples")
    return {
        str(node.target): {key: value.detach() for key, value in observer.state_dict().items()}
        for node, observer in activations
    }


def _tell_of_channels(activations: Sequence[tuple[Node, torch.nn.Module]], program: CapturedProgram) -> None:
    """Let each value of an activation count as much as its channel matters, and let unseen values count."""
    sources: dict[int, set[str]] = {}
    for node, observer in activations:
        sources.setdefault(id(observer), set()).add(node.all_input_nodes[0].name)
    for _, observer in activations:
        names = sources[id(observer)]
        if not isinstance(observer, ActivationRange):
            continue  # of bounds that are given
        reaches = [program.reaches[name].flatten() for name in sorted(names) if name in program.reaches]
        if reaches:
            values = torch.cat(reaches)
            observer.beyond = values, torch.ones_like(values)
        if len(names) == 1:  # What several values share has no channels of its own.
            name = next(iter(names))
            observer.weights = program.sensitivities.get(name)
            if observer.weights is not None and reaches:
                observer.beyond = values, observer.weights.flatten().repeat(2)


def assumed_ranges(prepared: Prepared) -> Ranges:
    """Return ranges as if every activation had gone from -1 to 1: what is quantized depends on no data."""
    ranges: Ranges = {}
    with _quiet():
        for node, observer in _activation_calls(prepared.model):
            observer(torch.tensor([-1.0, 1.0]))
            state = observer.state_dict()
            ranges[str(node.target)] = {key: value.detach() for key, value in state.items()}
    return ranges


def convert(prepared: Prepared, ranges: Ranges) -> QuantizedProgram:
    """Replace the observers by quantize and dequantize nodes with the ranges that were seen.

    Weights are symmetric int8; activations int8, per tensor. Jacob et al. 2018, "Quantization
    and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
    """
    started = time.perf_counter()
    program, model = prepared.program, prepared.model
    findings = tuple(_constant_activations(model, ranges))
    with _quiet():
        for node, observer in _observer_calls(model):
            source = node.all_input_nodes[0]
            if source.op == "get_attr":
                observer(attrgetter(str(source.target))(model))  # a weight is measured when it is seen first
                continue
            for key, value in ranges[str(node.target)].items():
                setattr(observer, key, value)
        exported = snap_biases(lift(convert_pt2e(model), program.exported))
    for remembers in (assert_and_get_unique_device, _assert_and_get_unique_device):
        remembers.cache_clear()  # the models that it was asked about, float weights and all
    rewrites = len(quantized_layers(exported))
    step = step_record("quantize", started, program.exported, exported, rewrites=rewrites)
    return QuantizedProgram(
        name=program.name,
        precision="int8",
        exported=exported,
        float_weight_bytes=constant_bytes(program.exported),
        unquantized=tuple(_in_float(exported, prepared.names, prepared.declined)),
        steps=(*program.steps, step),
        findings=findings,
    )


def quantize(
    program: CapturedProgram, data: Dataset, settings: QuantizationSettings, progress: Progress
) -> QuantizedProgram:
    """Quantize a program with static ranges, calibrated on the user's samples."""
    prepared = prepare(program, settings)
    return convert(prepared, calibrate(prepared, data, settings, progress))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torchao warns of its own deprecations
        yield


def _observer_calls(model: GraphModule) -> Iterator[tuple[Node, torch.nn.Module]]:
    for node in model.graph.find_nodes(op="call_module"):
        observer = model.get_submodule(str(node.target))
        if isinstance(observer, ObserverBase):
            yield node, observer


def _activation_calls(model: GraphModule) -> Iterator[tuple[Node, torch.nn.Module]]:
    for node, observer in _observer_calls(model):
        if node.all_input_nodes[0].op != "get_attr":
            yield node, observer


def _constant_activations(model: GraphModule, ranges: Ranges) -> Iterator[Finding]:
    """Yield a row for each activation that had one single value over the whole calibration."""
    known = set()
    for node, observer in _activation_calls(model):
        if id(observer) in known:  # values that are moved about share an observer
            continue
        known.add(id(observer))
        low, high = (float(ranges[str(node.target)][bound]) for bound in ("min_val", "max_val"))
        if low != high:
            continue
        source = node.all_input_nodes[0]
        name = "input" if source.op == "placeholder" else operator_name(source)
        yield Finding(
            code="constant-activation",
            what=f"{name} ({source.name})",
            where=source_line(source),
            text=f"every element is {low:.6g} for every calibration sample: its range has no width, "
            "and other values are clipped",
        )


def snap_biases(exported: ExportedProgram) -> ExportedProgram:
    """Round every quantized layer's bias to a multiple of `input scale * weight scale`.

    Every engine holds biases as int32 with that scale, and each rounds in its own way; on the grid there
    is nothing left to round, so all engines add the same integer.
    """
    editor = ProgramEditor(exported)
    nodes = {node.name: node for node in editor.graph.nodes}
    for layer in quantized_layers(exported):
        if layer.weights is None or layer.weights.bias is None:
            continue
        snapped = layer.weights.on_bias_grid(layer.weights.bias, layer.input_parameters[0].scale)
        nodes[layer.name].update_arg(2, editor.add_constant(f"{layer.name}_bias_on_grid", snapped))
    return editor.finish()


def _in_float(exported: ExportedProgram, names: list[str], declined: dict[str, str]) -> list[Declined]:
    """Return the operators that stay in float, in order: those declined, and those outside every layer.

    Args:
        exported: The converted program.
        names: What its computing nodes were called when they were annotated.
        declined: The reasons by those names.
    """
    inside = {node for layer in quantized_layers(exported) for node in layer.nodes}
    rows = []
    nodes = computing_nodes(exported.graph)
    if len(nodes) != len(names):  # The conversion computed something once and for all.
        names = [node.name for node in nodes]
    for node, name in zip(nodes, names, strict=True):
        reason = declined.get(name)
        if reason is None and node not in inside:
            reason = Reason(
                "its value is used both before and after its activation, or by an operator in float",
                change="let its activation alone read it",
            )
        if reason is not None:
            rows.append(decline(node, reason, timed_as=node.name))
    return rows
