"""How one layer in one engine compares with the reference, counted over samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.fx import Node

from edgecompile.artifact_run import Inputs
from edgecompile.exploded import Exploded
from edgecompile.quantize.layers import Layer
from edgecompile.target import ValidationSettings


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


class LayerTally(ABC):
    """Sets up one layer alone, and counts how its outputs differ.

    Attributes:
        layer: Of the program.
        sources: The nodes whose values it reads.
        exact: Whether bit equality is required.
    """

    def __init__(self, layer: Layer, sources: tuple[Node, ...], *, exact: bool) -> None:
        self.layer = layer
        self.sources = sources
        self.exact = exact
        self._total = self._equal = self._within = self._largest = 0

    @abstractmethod
    def explode(self, exploded: Exploded, inputs: list[Node]) -> Node:
        """Copy the layer, to read these inputs, and return the node of its output."""

    @abstractmethod
    def fed(self, inputs: Inputs) -> Inputs:
        """Return what the layer alone is given where the reference gave it these inputs."""

    @abstractmethod
    def add(self, output: torch.Tensor, inputs: Inputs, expected: torch.Tensor) -> None:
        """Count one sample.

        Args:
            output: What the engine gave.
            inputs: What the reference gave the layer.
            expected: What the reference made of it.
        """

    def count(self, *, total: int, equal: int, within: int, largest: int) -> None:
        """Add to all elements, to those that are equal or within the steps, and keep the largest step."""
        self._total += total
        self._equal += equal
        self._within += within
        self._largest = max(self._largest, largest)

    def result(self, settings: ValidationSettings) -> LayerResult:
        """Return the layer's row."""
        identical, within = self._equal / self._total, self._within / self._total
        return LayerResult(
            name=self.layer.name,
            kind=self.layer.kind,
            where=self.layer.where,
            exact=self.exact,
            identical=identical,
            within=within,
            largest_step=self._largest,
            passed=identical == 1.0 if self.exact else within >= settings.min_share_within_steps,
        )
