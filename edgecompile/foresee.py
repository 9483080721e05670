"""Foresees what a build would quantize and delegate, without calibrating or compiling for the delegate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.fx import Node

from edgecompile.build_cache import open_cache
from edgecompile.coverage import Coverage
from edgecompile.decline import macs_of
from edgecompile.emitter import Foreseen, load_emitter
from edgecompile.program import CapturedProgram, QuantizedProgram
from edgecompile.progress import Progress
from edgecompile.quantize.channels import IN_FLOAT, NORMS
from edgecompile.quantize.dynamic_layers import dynamic_layers
from edgecompile.quantize.layers import (
    DEQUANTIZE_PER_CHANNEL,
    computing_nodes,
    constants_of,
    quantized_layers,
)
from edgecompile.settings import BuildSettings
from edgecompile.stage_cache import Result, StageCache
from edgecompile.stages.captured import captured_program
from edgecompile.stages.in_float import float_program
from edgecompile.stages.quantized import foreseen_program
from edgecompile.target import Target, load_target
from edgecompile.why_not import why_not_rows

aten = torch.ops.aten


def foresee(settings: BuildSettings, progress: Progress) -> tuple[Coverage, ...]:
    """Capture the model, run the passes of each target, and foresee the rest.

    Raises:
        EdgecompileError: The model cannot be captured, or a format cannot express it.
    """
    found: dict[str, Coverage] = {}
    with open_cache(settings, progress) as cache:
        captured = captured_program(cache, settings)
        rows = []
        for name in settings.targets:
            target = load_target(name, settings.overrides)
            emits = [(item, target.emit[item]) for item in _formats(target, settings)]
            key = repr((target.passes, target.quantization, emits))  # many targets differ in less
            if key not in found:
                found[key] = _foresee(cache, captured, target, settings)
            rows.append(replace(found[key], target=name))
    return tuple(rows)


def _formats(target: Target, settings: BuildSettings) -> tuple[str, ...]:
    return settings.formats or target.formats


def _foresee(
    cache: StageCache, captured: Result[CapturedProgram], target: Target, settings: BuildSettings
) -> Coverage:
    passes = float_program(
        cache, captured, calibration=None, target=target, precision=settings.precision
    ).value()
    cache.progress.start(f"foresee {target.name}")
    program = foreseen_program(passes, target.quantization, settings.precision)
    found: dict[str, Foreseen | None] = {}
    for name in _formats(target, settings):
        emit = target.emit[name]
        found[name] = load_emitter(emit.emitter).foresee(program, emit)
    cache.progress.finish()
    known = {name: item for name, item in found.items() if item is not None}
    return coverage_of(
        program,
        known,
        target.name,
        unknown=tuple(sorted(found.keys() - known.keys())),
        notes=_notes(program, target, settings),
    )


def coverage_of(
    program: QuantizedProgram,
    formats: dict[str, Foreseen],
    target: str,
    *,
    unknown: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Coverage:
    """Return how much of a program is quantized, and what is foreseen of its artifacts.

    Args:
        program: After its quantization.
        formats: What each artifact has.
        target: Its name.
        unknown: The formats of which nothing is known.
        notes: What else the build does.
    """
    nodes = _operators(program)
    left = {row.timed_as for row in program.unquantized}
    inside = _quantized(program)
    quantized = [node for node in nodes if node in inside and node.name not in left]
    macs = sum(map(macs_of, nodes))
    rows = why_not_rows(program, {name: item.declined for name, item in formats.items()}, macs)
    return Coverage(
        target=target,
        precision=program.precision,
        operators=len(nodes),
        quantized=len(quantized),
        macs=macs,
        quantized_macs_share=sum(map(macs_of, quantized)) / macs if macs else None,
        delegates={name: item.delegates for name, item in formats.items()},
        why_not=tuple(rows),
        unknown=unknown,
        notes=notes,
    )


def _operators(program: QuantizedProgram) -> list[Node]:
    """Return what computes from an input: no quantization, and no weight on its way to a layer."""
    constants = constants_of(program.exported)
    computed: set[Node] = {
        node for node in program.exported.graph.find_nodes(op="placeholder") if node.name not in constants
    }
    for node in program.exported.graph.nodes:
        if node.op == "call_function" and not computed.isdisjoint(node.all_input_nodes):
            computed.add(node)
    return [
        node
        for node in computing_nodes(program.exported.graph)
        if node in computed and getattr(node.target, "namespace", "") != "quantized_decomposed"
    ]


def _quantized(program: QuantizedProgram) -> set[Node]:
    """Return what computes in integers, or reads integer weights."""
    if program.precision == "int8":
        return {node for layer in quantized_layers(program.exported) for node in layer.nodes}
    if program.precision == "int8-dynamic":
        return {layer.compute for layer in dynamic_layers(program.exported)}
    readers: set[Node] = set()
    unpacked = list(program.exported.graph.find_nodes(op="call_function", target=DEQUANTIZE_PER_CHANNEL))
    for node in unpacked:
        for user in node.users:
            (unpacked.append if user.target is aten.view.default else readers.add)(user)
    return readers


def _notes(program: QuantizedProgram, target: Target, settings: BuildSettings) -> tuple[str, ...]:
    """Return what a build would do besides what is foreseen."""
    notes = []
    operators = {node.target for node in program.exported.graph.nodes}
    quantization = target.quantization
    if settings.precision == "int8" and quantization.equalization and operators & {*IN_FLOAT, *NORMS}:
        notes.append(
            "depending on the data, the equalization puts products in float beside activations and norms"
        )
    if settings.precision == "int8" and quantization.concat_splitting and aten.cat.default in operators:
        notes.append("depending on the data, concatenations are split")
    if settings.prune:
        notes.append("this is of the model before pruning")
    if settings.budget:
        notes.append("a budget may keep more operators in float")
    return tuple(notes)
