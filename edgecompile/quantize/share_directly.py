"""Sharing of observers in one step: each value that shares one refers to the first that has it.

torchao merges the observers of values that share one, by what annotations say and where two of them are
of the same value. Where concatenations lie inside one another, references that go over others can end in a
circle there, which it follows for ever.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Graph, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    SharedQuantizationSpec,
)

Place = Node | tuple[Node, Node]
"""What has an observer: a node's output, or an edge from a node to one that reads it."""


def share_directly(graph: Graph, key: str) -> None:
    """Let all that shares an observer refer to the first place of the group.

    Args:
        graph: Is annotated.
        key: Under which metadata the annotations lie.
    """
    annotations: dict[Node, QuantizationAnnotation] = {
        node: node.meta[key] for node in graph.nodes if key in node.meta
    }
    specs = _specs(annotations)
    parents: dict[Place, Place] = {place: place for place in specs}

    def root(place: Place) -> Place:
        while parents[place] != place:
            place = parents[place]
        return place

    def merge(first: Place, second: Place) -> None:
        parents[root(second)] = root(first)

    for place, spec in specs.items():
        if isinstance(spec, SharedQuantizationSpec):
            merge(spec.edge_or_node, place)
    for value in graph.nodes:
        readings: list[Place] = [value, *((value, reader) for reader in value.users)]
        known: dict[Any, Place] = {}
        for place in (place for place in readings if place in specs):
            merge(known.setdefault(_kind(specs, place), place), place)
    groups: dict[Place, list[Place]] = {}
    for place in specs:  # in torchao's order, in which the first makes the observer
        groups.setdefault(root(place), []).append(place)
    for first, *others in groups.values():
        shares = any(isinstance(specs[place], SharedQuantizationSpec) for place in others)
        if shares and not isinstance(specs[first], SharedQuantizationSpec):
            for place in others:
                _annotate(annotations, place, SharedQuantizationSpec(first))


def _specs(annotations: dict[Node, QuantizationAnnotation]) -> dict[Place, QuantizationSpecBase]:
    found: dict[Place, QuantizationSpecBase] = {}
    for node, annotation in annotations.items():
        found |= {
            (source, node): spec for source, spec in annotation.input_qspec_map.items() if spec is not None
        }
        if annotation.output_qspec is not None:
            found[node] = annotation.output_qspec
    return found


def _kind(specs: dict[Place, QuantizationSpecBase], place: Place) -> tuple[Any, ...]:
    """Return what two annotations of one value must have alike to share an observer."""
    spec = specs[place]
    while isinstance(spec, SharedQuantizationSpec):
        spec = specs[spec.edge_or_node]
    assert isinstance(spec, QuantizationSpec)
    return spec.dtype, spec.quant_min, spec.quant_max, spec.qscheme, spec.ch_axis, spec.is_dynamic


def _annotate(
    annotations: dict[Node, QuantizationAnnotation], place: Place, spec: QuantizationSpecBase
) -> None:
    if isinstance(place, tuple):
        annotations[place[1]].input_qspec_map[place[0]] = spec
    else:
        annotations[place].output_qspec = spec
