"""The model's inputs and outputs: names, shapes, dtypes and quantization at the edge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile.artifact import TensorEntry
from edgecompile.dataset import NOISE, Dataset, Sample, TensorSpec
from edgecompile.dynamic_size import BATCH, DynamicSize
from edgecompile.flat_signature import output_names
from edgecompile.graph_edit import output_nodes, user_input_names
from edgecompile.quantize.layers import DEQUANTIZE, QUANTIZE, parameters_of
from edgecompile.symbolic_sizes import input_sizes, output_sizes

# Samples for a build in float without data: enough to see that every artifact computes the same.
_RANDOM_SAMPLES = 8
_LARGEST_NOISE = 256  # of a dynamic size


def input_specs(exported: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Return what a sample must hold, in order; None for a dynamic size."""
    return _specs(inputs_of(exported))


def output_specs(exported: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Return what the program gives, in order; None for a dynamic size."""
    return _specs(outputs_of(exported))


def inputs_of(exported: ExportedProgram) -> tuple[TensorEntry, ...]:
    """Return the inputs with the quantization parameters of the quantize node that reads them."""
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    return tuple(
        _entry(
            name,
            placeholders[name],
            next(_quantizes(placeholders[name].users), None),
            input_sizes(exported, placeholders[name]),
        )
        for name in user_input_names(exported)
    )


def outputs_of(exported: ExportedProgram) -> tuple[TensorEntry, ...]:
    """Return the outputs with the quantization parameters of the dequantize node that gives them."""
    outputs = output_nodes(exported.graph)
    return tuple(
        _entry(name, node, node if node.target is DEQUANTIZE else None, output_sizes(exported, node))
        for name, node in zip(output_names(exported), outputs, strict=True)
    )


def random_dataset(specs: Sequence[TensorSpec]) -> Dataset:
    """Return samples of seeded noise, for a build in float without data."""
    generator = torch.Generator().manual_seed(0)
    samples = tuple(
        Sample(inputs=tuple(_noise(spec, generator, index) for spec in specs), label=None)
        for index in range(_RANDOM_SAMPLES)
    )
    return Dataset(samples=samples, spec=NOISE)


def _noise(spec: TensorSpec, generator: torch.Generator, index: int) -> torch.Tensor:
    dynamic = {size.axis: _length(size, index) for size in spec.dynamic}
    sizes = [dynamic.get(axis, 1) if size is None else size for axis, size in enumerate(spec.shape)]
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.rand(sizes, generator=generator, dtype=dtype)
    return torch.randint(0, 2, sizes, generator=generator).to(dtype)


def _length(size: DynamicSize, index: int) -> int:
    """Return a size for one sample: the first has the least, the last the largest that is not excessive."""
    if size.name == BATCH:
        return 1
    most = max(size.minimum, min(_LARGEST_NOISE, size.maximum or _LARGEST_NOISE))
    steps = (most - size.minimum) // size.step
    return size.minimum + steps * index // (_RANDOM_SAMPLES - 1) * size.step


def _specs(entries: Iterable[TensorEntry]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=entry.name, shape=entry.shape, dtype=entry.dtype, dynamic=entry.dynamic)
        for entry in entries
    )


def _quantizes(users: Iterable[Node]) -> Iterator[Node]:
    return (user for user in users if user.target is QUANTIZE)


def _entry(name: str, node: Node, quantization: Node | None, dynamic: tuple[DynamicSize, ...]) -> TensorEntry:
    value = node.meta["val"]
    parameters = parameters_of(quantization) if quantization is not None else None
    return TensorEntry(
        name=name,
        shape=tuple(None if isinstance(size, torch.SymInt) else int(size) for size in value.shape),
        dtype=str(value.dtype).removeprefix("torch."),
        scale=parameters.scale if parameters else None,
        zero_point=parameters.zero_point if parameters else None,
        dynamic=dynamic,
    )
