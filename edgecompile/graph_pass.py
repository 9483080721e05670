"""The pass contract, and the pipeline that verifies the program after each pass.

A pass is one class in one file of `passes/`, found by its name (`fold-batchnorm` is `FoldBatchnorm` in
`passes/fold_batchnorm.py`), that takes an `ExportedProgram` and returns a `PassOutcome`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgecompile import catalogue
from edgecompile.decline import decline
from edgecompile.errors import PassBrokeProgramError
from edgecompile.graph_edit import Operator, ProgramEditor, operator_name, output_nodes, user_input_names
from edgecompile.program import CapturedProgram, Declined, step_record


@dataclass(frozen=True, kw_only=True)
class PassOutcome:
    """What a pass returns.

    Attributes:
        program: The rewritten program; the one that came in is left as it was.
        rewrites: How many places were changed; 0 when there was nothing to do.
        declined: Places that look like the pass's pattern and were left alone, each with the reason.
    """

    program: ExportedProgram
    rewrites: int
    declined: tuple[Declined, ...] = ()


class GraphPass(Protocol):
    """One rewrite of the graph."""

    def run(self, program: ExportedProgram) -> PassOutcome:
        """Return the rewritten program; must not change the one that came in."""
        ...


def outcome(editor: ProgramEditor, declined: Sequence[Declined] = ()) -> PassOutcome:
    """Finish an edit: the usual last line of a pass."""
    return PassOutcome(program=editor.finish(), rewrites=editor.rewrites, declined=tuple(declined))


Rewrite = Callable[[ProgramEditor, Node], Node | str | None]
"""Makes what replaces a call; returns that, why there is none, or None where the call is not the pattern."""


def rewrite_calls(
    program: ExportedProgram, rewrites: Mapping[Operator, Rewrite], *, changes_layout: bool = False
) -> PassOutcome:
    """Replace the calls of some operators: all of a pass that looks at one call at a time.

    Args:
        program: Is left as it was.
        rewrites: What is made of the calls, by operator.
        changes_layout: What is made may lie in another order in memory.
    """
    editor = ProgramEditor(program)
    declined = []
    for node in editor.calls(*rewrites):
        assert callable(node.target)
        made = rewrites[node.target](editor, node)
        if isinstance(made, Node):
            editor.replace(node, made)
        elif made is not None:
            declined.append(decline(node, made, what=operator_name(node)))
    if changes_layout and editor.rewrites:
        editor.allow_any_layout()
    return outcome(editor, declined)


def run_passes(program: CapturedProgram, names: Sequence[str]) -> CapturedProgram:
    """Run passes in order; after each, verify the graph and that its signature is unchanged.

    Raises:
        PassBrokeProgramError: A pass left an invalid graph or another signature: a bug of ours.
    """
    exported = program.exported
    steps = list(program.steps)
    for name in names:
        started = time.perf_counter()
        result = run_pass(name, exported)
        steps.append(
            step_record(
                name,
                started,
                exported,
                result.program,
                rewrites=result.rewrites,
                declined=result.declined,
            )
        )
        exported = result.program
    return CapturedProgram(name=program.name, exported=exported, steps=tuple(steps))


def run_pass(name: str, exported: ExportedProgram) -> PassOutcome:
    """Run one pass by name, verified."""
    graph_pass: GraphPass = catalogue.load("edgecompile.passes", name)()
    try:
        result = graph_pass.run(exported)
        result.program.validate()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise PassBrokeProgramError(
            f"pass {name!r} failed: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}",
            where=f"passes/{name.replace('-', '_')}.py",
            hint=f"build with a target that leaves {name!r} out, and report this as a bug of edgecompile",
        ) from error
    before, after = signature(exported), signature(result.program)
    if before != after:
        raise PassBrokeProgramError(
            f"pass {name!r} changed the program's signature",
            expected="\n".join(before),
            found="\n".join(after),
            hint="report this as a bug of edgecompile",
        )
    return result


def signature(exported: ExportedProgram) -> tuple[str, ...]:
    """Return inputs and outputs as text: what no pass may change."""
    placeholders = {node.name: node for node in exported.graph.find_nodes(op="placeholder")}
    rows = [_describe(name, placeholders[name].meta["val"]) for name in user_input_names(exported)]
    outputs = output_nodes(exported.graph)
    rows.extend(_describe(f"output {index}", node.meta["val"]) for index, node in enumerate(outputs))
    return tuple(rows)


def _describe(name: str, value: torch.Tensor) -> str:
    # A symbolic size is one dynamic size whatever its expression is called.
    sizes = ["?" if isinstance(size, torch.SymInt) else str(size) for size in value.shape]
    return f"{name}: ({', '.join(sizes)}) {value.dtype}"
