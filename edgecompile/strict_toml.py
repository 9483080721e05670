"""TOML files, strictly: every key known, every value of its type, all problems shown together."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from edgecompile.errors import EdgecompileError, did_you_mean
from edgecompile.problems import Problems

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""For `@with_config` on each dataclass of a schema."""

STRICT_KEBAB = ConfigDict(**STRICT, alias_generator=lambda name: name.replace("_", "-"))
"""The same where the keys are named as the command line's flags are."""


def read_toml(path: Path, error: type[EdgecompileError]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        EdgecompileError: Of class `error`; the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"cannot read {path.name!r}", where=str(path), found=problem.strerror) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path.name!r} is not valid TOML", where=str(path), found=str(problem)) from problem


def parse(
    schema: type[T],
    data: Mapping[str, Any],
    error: type[EdgecompileError],
    locate: Callable[[str], Path | str],
) -> T:
    """Return `data` as an instance of the dataclass `schema`.

    Args:
        schema: A frozen dataclass, it and its parts decorated by `with_config(STRICT)`.
        data: What the file (or several, merged) holds.
        error: The class of every problem.
        locate: Gives the file that holds a dotted key, or what else says it.

    Raises:
        EdgecompileError: Of class `error`, or `ConfigurationErrors` if there are several problems.
    """
    problems = Problems()
    try:
        # Through JSON, because there strictness still takes an array for a tuple and a table for a
        # dataclass; TOML's dates become text, which no setting takes for anything else.
        return TypeAdapter(schema).validate_json(json.dumps(data, default=str))
    except ValidationError as invalid:
        for detail in invalid.errors(include_url=False):
            problems.add(_problem(schema, detail, error, locate))
    problems.raise_any()
    raise AssertionError("a validation error without details")


def _problem(
    schema: type, detail: ErrorDetails, error: type[EdgecompileError], locate: Callable[[str], Path | str]
) -> EdgecompileError:
    """Return one of pydantic's findings in our own shape."""
    place = detail["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    where = f"{locate(key)}: {key}"
    if detail["type"] == "unexpected_keyword_argument":
        known = _known_keys(schema, place[:-1])
        guess = did_you_mean(str(place[-1]), known)
        hint = f"did you mean {guess!r}?" if guess else None
        return error(f"unknown key {place[-1]!r}", where=where, known=", ".join(known), hint=hint)
    if detail["type"] in ("missing", "missing_argument"):
        return error(f"the key {place[-1]!r} is missing", where=where)
    expected = re.sub(r"^(Input|Value) should be (a )?(valid )?", "", detail["msg"])
    guess = did_you_mean(str(detail["input"]), re.findall(r"'([^']*)'", expected))
    return error(
        f"invalid value for {key!r}",
        where=where,
        expected=expected,
        found=json.dumps(detail["input"]),
        hint=f"did you mean {guess!r}?" if guess else None,
    )


def _known_keys(schema: Any, place: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the keys that the table at `place` below `schema` may hold."""
    for part in place:
        schema = _without_none(schema)
        arguments = get_args(schema)
        if get_origin(schema) is tuple:
            schema = arguments[0]
        elif get_origin(schema) is not None:
            schema = arguments[1]  # a mapping's values
        else:
            schema = get_type_hints(schema)[str(part)]
    schema = _without_none(schema)
    alias = getattr(schema, "__pydantic_config__", {}).get("alias_generator", str)
    return tuple(alias(field.name) for field in dataclasses.fields(schema))


def _without_none(schema: Any) -> Any:
    """Return the type that a value has, if it is there."""
    arguments = get_args(schema)
    if type(None) not in arguments:
        return schema
    return next(argument for argument in arguments if argument is not type(None))
