"""Weights that are rounded up or down as their layer's output asks for, found by gradient descent.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568, called
AdaRound: a weight is `floor + h(v)` steps, where h is a sigmoid stretched beyond 0 and 1 and cut there, and a
penalty drives each h(v) to 0 or 1 while the layer's outputs, after its clamp and from quantized inputs,
are kept close to the float program's.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch.nn import functional

from edgecompile.layer_rows import groups_of
from edgecompile.quantize.layer_walk import LayerStop
from edgecompile.quantize.positions import layer_positions

# The rectified sigmoid, h(v) = clamp(sigmoid(v) * (1.1 + 0.1) - 0.1, 0, 1), equation 23.
_STRETCH = 1.1
_OFFSET = -0.1
# The penalty's exponent falls from the first to the second, after a part of the steps without penalty.
_EXPONENTS = (20.0, 2.0)
_WITHOUT_PENALTY = 0.2
# Of the penalty beside the error, each divided by what it is at most or at first.
_PENALTY = 1.0
_LEARNING_RATE = 0.01
# Positions that one step sees.
_BATCH = 256
# One of so many samples is kept for the choice between what was found and what it began with.
_HELD_OUT = 5
# Steps after which it is known how many the time allows.
_TRIAL = 10
# How far a start may lie from the border of its cell: h is 0.01 there, and its gradient is not zero.
_WITHIN = 0.49


@dataclass(frozen=True, kw_only=True)
class AdaptiveRounding:
    """What one layer's search gave.

    Attributes:
        integers: int8, of the weight's shape.
        steps: Those that were taken; fewer than were wanted if the time was up.
        loss: The squared error on samples that the search did not see, as a share of what the start has.
    """

    integers: torch.Tensor
    steps: int
    loss: float


def round_adaptive(
    stop: LayerStop,
    start: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    limit: int,
    steps: int,
    seconds: float,
) -> AdaptiveRounding:
    """Search for a better rounding of a layer's weight; the start is returned where none is found.

    Args:
        stop: The layer, what it reads and what it should give.
        start: Integers to begin with; each weight is then rounded to one of the two around its real value,
            which is moved into the start's cell where the start is further away.
        bias: That the layer will have, (K,).
        limit: The greatest absolute value of an integer.
        steps: The most steps that are taken.
        seconds: After which the search ends; the result then depends on the machine's speed.
    """
    search = _Search(stop, start, bias, limit)
    started = time.monotonic()
    taken, planned = 0, steps
    while taken < planned and time.monotonic() < started + seconds:
        search.step(taken / planned)
        taken += 1
        if taken == _TRIAL:  # The penalty has to reach its end, so fewer steps have another course.
            affordable = int(seconds / (time.monotonic() - started) * taken)
            planned = min(steps, max(affordable, taken))
    return search.best(taken)


class _Search:
    def __init__(self, stop: LayerStop, start: torch.Tensor, bias: torch.Tensor | None, limit: int) -> None:
        layer = stop.layer
        assert layer.weights is not None
        groups = groups_of(layer.compute)
        self._start, self._limit = start, limit
        self._clamp = layer.clamp_bounds
        generator = torch.Generator().manual_seed(0)  # the same build gives the same artifact
        self._generator = generator
        pairs = [
            layer_positions(layer, value, wanted, generator)
            for value, wanted in zip(stop.inputs, stop.wanted, strict=True)
        ]
        held = pairs[_HELD_OUT - 1 :: _HELD_OUT] or pairs
        seen = [pair for index, pair in enumerate(pairs) if index % _HELD_OUT != _HELD_OUT - 1]
        self._read, self._wanted = _joined(seen)
        self._held = _joined(held)
        shape = (groups, -1, start[0].numel())
        self._scales = layer.weights.scales.reshape(groups, -1, 1)
        zero = torch.zeros(len(start))
        self._bias = (zero if bias is None else bias).reshape(groups, 1, -1)
        integers = start.float().reshape(shape)
        real = stop.weight.reshape(shape) / self._scales
        self._may_move = real != 0  # what pruning has zeroed stays 0
        real = (integers + (real - integers).clamp(-_WITHIN, _WITHIN)).clamp(-limit, limit)
        self._floor = real.floor()
        share = (real - self._floor - _OFFSET) / (_STRETCH - _OFFSET)
        self._value = torch.logit(share).requires_grad_()
        self._optimizer = torch.optim.Adam([self._value], lr=_LEARNING_RATE)
        with torch.no_grad():
            self._first = self._loss(integers, *self._held).clamp_min(1e-30)
            self._scale = self._loss(integers, self._read, self._wanted).clamp_min(1e-30)

    def step(self, progress: float) -> None:
        """Take one step; `progress` goes from 0 to 1."""
        chosen = torch.randperm(len(self._read), generator=self._generator)[:_BATCH]
        with torch.enable_grad():
            up = self._up()
            loss = self._loss(self._floor + up, self._read[chosen], self._wanted[chosen]) / self._scale
            if progress >= _WITHOUT_PENALTY:
                annealed = (progress - _WITHOUT_PENALTY) / (1 - _WITHOUT_PENALTY)
                first, last = _EXPONENTS
                exponent = last + 0.5 * (first - last) * (1 + math.cos(math.pi * annealed))
                loss = loss + _PENALTY * (1 - (2 * up - 1).abs().pow(exponent)).mean()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def best(self, steps: int) -> AdaptiveRounding:
        """Return what was found, or the start where that is no worse on the samples that were held out."""
        with torch.no_grad():
            found = (self._floor + (self._up() >= 0.5)).clamp(-self._limit, self._limit)
            loss = float(self._loss(found, *self._held) / self._first)
        if not loss < 1:
            return AdaptiveRounding(integers=self._start, steps=steps, loss=1.0)
        integers = found.reshape(self._start.shape).to(torch.int8)
        return AdaptiveRounding(integers=integers, steps=steps, loss=loss)

    def _up(self) -> torch.Tensor:
        up = (torch.sigmoid(self._value) * (_STRETCH - _OFFSET) + _OFFSET).clamp(0, 1)
        return up * self._may_move

    def _loss(self, integers: torch.Tensor, read: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error after the clamp.

        Args:
            integers: (groups, rows, length).
            read: (positions, groups, length).
            wanted: (positions, K), before the clamp.
        """
        found = torch.baddbmm(self._bias, read.transpose(0, 1), (integers * self._scales).transpose(1, 2))
        found = found.transpose(0, 1).flatten(1)  # (positions, K)
        return functional.mse_loss(found.clamp(*self._clamp), wanted.clamp(*self._clamp))


def _joined(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer reads, (positions, groups, length), and should give, (positions, K)."""
    return torch.cat([read for read, _ in pairs]), torch.cat([wanted for _, wanted in pairs])
