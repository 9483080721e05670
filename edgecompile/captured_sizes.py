"""What a capture says of dynamic sizes that the model does not take, in the words of `--dynamic`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import sympy
from torch._guards import detect_fake_mode
from torch.export import ExportedProgram
from torch.utils._sympy.printers import PythonPrinter

from edgecompile.dynamic_size import BATCH, WantedSize
from edgecompile.errors import CaptureFailedError
from edgecompile.symbolic_sizes import inputs_of_graph, step_and_symbol

# What torch.export writes.
_SPECIALIZED = re.compile(
    r"You marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)"
)
_GUARDED = re.compile(
    r"Not all values of (\w+) = (\S+) in the specified range .* satisfy the generated guard (.+)\."
)
_MULTIPLE = re.compile(r"^ *(\w+) = (\d+)\*_\1$", re.MULTILINE)
# How far to look: for how many steps in one, for how long sizes, and where a guard is of several of them.
_MOST_TIMES, _MOST_COUNTS, _MOST_OF_EACH = 65, 256, 8


def refused_sizes(text: str, wanted: Sequence[WantedSize]) -> dict[str, str]:
    """Return what torch.export found, and what to do.

    Args:
        text: What it wrote: that the model fixes a size, or does not take all that are wanted.
        wanted: The sizes that it was asked for.
    """
    names = {f"_{size.name}": f"{size.name}/{size.step}" for size in wanted}  # of `symbolic_sizes.dimension`
    rows = [f"{names.get(name, name)} is always {size}" for name, size in _SPECIALIZED.findall(text)]
    for name, place, guard in _GUARDED.findall(text):
        said = names.get(name, name)
        rows.append(f"{said} must satisfy {guard.replace(place, said)}")
    steps = {name: int(step) for name, step in _MULTIPLE.findall(text)}
    if all(size.name == BATCH for size in wanted):
        hint = "the model fixes its batch size (a reshape with a number?); leave --dynamic-batch out"
    else:
        hint = _instead([_in_steps(size, steps[size.name]) for size in wanted if size.name in steps])
    return {"found": "\n".join(dict.fromkeys(rows)), "hint": hint}


def require_every_step(exported: ExportedProgram, wanted: Sequence[WantedSize]) -> None:
    """Refuse a model that takes only some of the multiples that are wanted.

    torch.export does so itself for sizes that do not go in steps. For those that do, what it took for granted
    stays among its guards, unsaid.

    Args:
        exported: As torch.export gives it.
        wanted: The sizes that it was asked for.

    Raises:
        CaptureFailedError: The model was traced with a guess that does not hold for one of the sizes.
    """
    if all(size.step == 1 for size in wanted):
        return
    values = {node.name: node.meta["val"] for node in inputs_of_graph(exported)}
    sizes = [(size, values[size.input].shape[size.axis].node.expr) for size in wanted]
    symbols = {step_and_symbol(expression)[1]: size for size, expression in sizes}
    mode = detect_fake_mode(list(values.values()))
    assert mode is not None and mode.shape_env is not None
    traced = mode.shape_env.replacements  # what each size was while it was traced: a symbol, not yet in steps
    whole = {expression: sympy.Symbol(size.name, integer=True) for size, expression in sizes}
    names = {symbol: whole[meant] for symbol, meant in traced.items() if meant in whole}
    rows: list[str] = []
    broken: dict[Any, list[Any]] = {}  # by the symbol, if a guard is of one
    for guard in (guard.expr for guard in mode.shape_env.guards):
        stated = guard.xreplace(traced)
        own = {symbol: symbols[symbol] for symbol in stated.free_symbols if symbol in symbols}
        is_known = len(own) == len(stated.free_symbols) and any(size.step > 1 for size in own.values())
        if is_known and not _holds(stated, own):
            said = " and ".join(dict.fromkeys(size.name for size in own.values()))
            rows.append(f"{said} must satisfy {PythonPrinter().doprint(guard.xreplace(names))}")
            broken.setdefault(next(iter(own)) if len(own) == 1 else None, []).append(stated)
    if rows:
        fitting = [
            _fitting(symbols[symbol], symbol, broken[symbol]) for symbol in broken if symbol is not None
        ]
        raise CaptureFailedError(
            "the model does not take every size that --dynamic says",
            found="\n".join(dict.fromkeys(rows)),
            hint=_instead([size for size in fitting if size is not None]),
        )


def _holds(guard: Any, sizes: Mapping[Any, WantedSize]) -> bool:
    """Tell whether a guard is true for all sizes, which its symbols count the steps of."""
    counts = [_counts(size)[: _MOST_COUNTS if len(sizes) == 1 else _MOST_OF_EACH] for size in sizes.values()]
    return all(_is_true(guard, dict(zip(sizes, own, strict=True))) for own in product(*counts))


def _fitting(size: WantedSize, symbol: Any, guards: Sequence[Any]) -> WantedSize | None:
    """Return the most of a size's range for which guards are true: longer steps, from a later one on."""
    for times in range(1, _MOST_TIMES):
        counts = [count for count in _counts(size) if count % times == 0]
        wrong = [not all(_is_true(guard, {symbol: count}) for guard in guards) for count in counts]
        first = wrong.index(False) if False in wrong else len(wrong)
        if len(counts) - first > 1 and not any(wrong[first:]):
            return _in_steps(replace(size, minimum=counts[first] * size.step), size.step * times)
    return None


def _counts(size: WantedSize) -> list[int]:
    """Return how many steps a size may be, but no more than make sense to try."""
    most = (size.maximum or 0) // size.step
    return list(range(-(-size.minimum // size.step), most + 1))[:_MOST_COUNTS]


def _is_true(guard: Any, counts: Mapping[Any, int]) -> bool:
    return bool(guard.subs(counts) == sympy.true)


def _in_steps(size: WantedSize, step: int) -> WantedSize:
    least, most = -(-size.minimum // step) * step, (size.maximum or 0) // step * step
    return replace(size, minimum=least, maximum=most, step=step)


def _instead(sizes: Sequence[WantedSize]) -> str:
    """Return what to ask for: these sizes, where they are ranges."""
    said = [f"--dynamic {size}" for size in sizes if size.minimum < (size.maximum or 0)]
    if said:
        return f"ask for less: {' '.join(said)}"
    return "leave this size out of --dynamic, or change the model or the bounds"
