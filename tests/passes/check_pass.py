"""Runs one pass on a tiny network, and checks what every pass promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from edgecompile.capture import capture
from edgecompile.graph_edit import operator_name, user_input_names
from edgecompile.graph_pass import PassOutcome, run_pass, signature
from edgecompile.program import SourceModel
from edgecompile.quantize.layers import constants_of


class Net(nn.Module):
    """A function as a network; its keyword arguments become modules, parameters or buffers."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module | torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def trained(*layers: nn.Module) -> nn.Sequential:
    """Return a network whose batch norms have statistics of their own."""
    for layer in (inner for outer in layers for inner in outer.modules()):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 2)
                nn.init.uniform_(layer.bias, -1, 1)
    return nn.Sequential(*layers)


def program_of(module: nn.Module, *inputs: torch.Tensor, dynamic_batch: bool = False) -> ExportedProgram:
    """Capture a network in inference mode."""
    source = SourceModel(name="net", module=module.eval(), exported=None, example_inputs=inputs)
    return capture(source, dynamic_batch=dynamic_batch).exported


def run_program(program: ExportedProgram, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run a program without the checks of its first inputs' sizes."""
    outputs = program.module(check_guards=False)(*inputs)
    return tuple(torch.utils._pytree.tree_leaves(outputs))


def check_pass(
    name: str,
    module: nn.Module | ExportedProgram,
    *inputs: torch.Tensor,
    dynamic_batch: bool = False,
    rewrites: int | None = None,
    tolerance: float = 1e-5,
) -> PassOutcome:
    """Run a pass; the second run must have nothing to do, and the program that went in must be as it was."""
    is_module = isinstance(module, nn.Module)
    program = program_of(module, *inputs, dynamic_batch=dynamic_batch) if is_module else module
    text, values = str(program.graph), copy.deepcopy(constants_of(program))
    outcome = run_pass(name, program)
    outcome.program.validate()
    assert signature(outcome.program) == signature(program)
    assert user_input_names(outcome.program) == user_input_names(program)
    fresh = tuple(torch.rand_like(value) if value.is_floating_point() else value for value in inputs)
    batches = (inputs, fresh)
    if dynamic_batch:
        batches = (*batches, tuple(torch.cat([value, value, value]) for value in fresh))
    for batch in batches:
        with torch.no_grad():
            expected = (
                module(*(value.clone() for value in batch)) if is_module else run_program(module, *batch)
            )
        for found, wanted in zip(
            run_program(outcome.program, *batch), torch.utils._pytree.tree_leaves(expected), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    again = run_pass(name, outcome.program)
    assert again.rewrites == 0
    assert operators(again.program) == operators(outcome.program)
    assert [row.reason for row in again.declined] == [row.reason for row in outcome.declined]
    assert str(program.graph) == text
    for key, value in constants_of(program).items():
        assert torch.equal(value, values[key])
    if rewrites is not None:
        assert outcome.rewrites == rewrites
    return outcome


def operators(program: ExportedProgram) -> list[str]:
    """Return the names of a program's calls, in order."""
    return [operator_name(node) for node in program.graph.nodes if node.op == "call_function"]


def calls(program: ExportedProgram, operator: str) -> list[tuple[Any, ...]]:
    """Return the arguments of every call of an operator."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return [node.args for node in nodes if operator_name(node) == operator]


def reasons(outcome: PassOutcome) -> str:
    """Return what a pass declined, as one text; each row must name its line here or in a test."""
    for row in outcome.declined:
        assert row.what
        assert row.reason
    return "; ".join(row.reason for row in outcome.declined)
