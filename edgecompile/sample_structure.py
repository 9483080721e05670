"""A sample in the structure that the model's function gives its inputs: brought into the inputs' order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgecompile.errors import DataMismatchError, did_you_mean


def in_row(values: Any, names: Sequence[str], where: str) -> tuple[Any, ...]:
    """Return a sample's arrays in the order of the model's inputs.

    Args:
        values: An array; a tuple or list of what `forward` takes in order; or a dictionary of what it takes
            by name. Each may be an array, or a tuple, list or dictionary of such.
        names: Of the inputs: keys and places behind the name of `forward`'s argument, joined by underscores.
        where: Which sample it is, for errors.

    Raises:
        DataMismatchError: A dictionary's keys are not those of the inputs.
    """
    if isinstance(values, Mapping):
        return _by_name(dict(_leaves(values)), names, where)
    found: list[Any] = []
    for value in values if isinstance(values, tuple | list) else (values,):
        leaves = dict(_leaves(value))
        own = names[len(found) : len(found) + len(leaves)]
        ends = {path: [name for name in own if name.endswith(f"_{path}")] for path in leaves}
        if "" in leaves or any(len(matches) != 1 for matches in ends.values()):
            found += leaves.values()  # the number of inputs, or their shapes, tell what does not fit
        else:
            found += _by_name({ends[path][0]: leaf for path, leaf in leaves.items()}, own, where)
    return tuple(found)


def _by_name(leaves: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[Any, ...]:
    if set(leaves) != set(names):
        wrong = next(iter(sorted(set(leaves) - set(names))), "")
        guess = did_you_mean(wrong, names)
        raise DataMismatchError(
            "a sample's keys are not the names of the model's inputs",
            where=where,
            expected=", ".join(names),
            found=", ".join(leaves) or "no array",
            hint=f"rename {wrong!r} to {guess!r}" if guess else None,
        )
    return tuple(leaves[name] for name in names)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not _is_structure(value):
        yield "_".join(path), value
        return
    names = getattr(value, "_fields", range(len(value)))
    parts = value.items() if isinstance(value, Mapping) else zip(names, value, strict=True)
    for key, part in parts:
        yield from _leaves(part, (*path, re.sub(r"\W", "_", str(key)).lower()))


def _is_structure(value: Any) -> bool:
    """Tell whether a value holds arrays; a list of numbers is an array itself."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, tuple | list) and not all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_number, value))
    return isinstance(value, int | float | np.generic)
