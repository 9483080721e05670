"""ONNX models (`.onnx`) of one file, parsed and checked as untrusted data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgecompile.readers.contents import ArtifactContents, damage_reported
from edgecompile.readers.onnx_graph import ENGINE, Graph, operator_name


def read(data: bytes) -> ArtifactContents:
    """Read an `.onnx`.

    Raises:
        UnreadableArtifactError: If it is damaged, not ONNX, or keeps tensors in other files.
    """
    with damage_reported("onnx"):
        model = _checked(data)
        graph = Graph(model.graph)
        return ArtifactContents(
            format="onnx",
            engine=ENGINE,
            size_bytes=len(data),
            inputs=tuple(graph.tensor(value) for value in graph.inputs),
            outputs=tuple(graph.tensor(value) for value in model.graph.output),
            operators=dict(Counter(operator_name(node) for node in _all_nodes(model.graph.node))),
            layers=tuple(graph.layers()),
        )


def _checked(data: bytes) -> onnx.ModelProto:
    """Parse and check the model.

    Raises:
        ValueError: If it is not a valid model of a single file.
    """
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    # Read no other file whose path an artifact names.
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _all_tensors(model)):
        raise ValueError("it keeps tensors in other files (external data), which is not supported")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ValueError(str(error)) from error
    if not model.graph.node:
        raise ValueError("its graph is empty")
    return model


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes and those of the graphs inside them (If, Loop)."""
    for node in nodes:
        yield node
        for graph in _inner_graphs(node):
            yield from _all_nodes(graph.node)


def _inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs)


def _all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of the model, wherever it can hide one."""
    nodes = list(_all_nodes(model.graph.node))
    for function in model.functions:
        nodes.extend(_all_nodes(function.node))
    for graph in (model.graph, *(inner for node in nodes for inner in _inner_graphs(node))):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
