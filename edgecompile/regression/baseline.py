"""The baseline: a small JSON file beside an app's sources that says how good its model was when reviewed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import with_config

from edgecompile import __version__
from edgecompile.errors import (
    BaselineMismatchError,
    EvaluationDataChangedError,
    InvalidBaselineError,
)
from edgecompile.regression.facts import BuildFacts
from edgecompile.regression.tolerances import Tolerances
from edgecompile.strict_toml import STRICT, parse
from edgecompile.text_file import write_text

SCHEMA_VERSION: Final = 1


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a check compares with.

    Attributes:
        tolerances: Those that a reviewer changed; the file holds no others.
    """

    schema_version: Literal[1]
    edgecompile_version: str
    tolerances: Tolerances = field(default_factory=Tolerances)
    build: BuildFacts


def baseline_of(build: BuildFacts, tolerances: Tolerances) -> Baseline:
    """Return a baseline of this version's."""
    return Baseline(
        schema_version=SCHEMA_VERSION, edgecompile_version=__version__, tolerances=tolerances, build=build
    )


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InvalidBaselineError: There is none, or it is damaged, or of another schema version.
    """
    hint = "`edgecompile baseline BUNDLE -o FILE` writes one"
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidBaselineError(
            f"the baseline cannot be read: {error.strerror}", where=str(path), hint=hint
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidBaselineError(
            f"the baseline cannot be read as JSON: {error}", where=str(path), hint=hint
        ) from error
    if not isinstance(data, dict):
        raise InvalidBaselineError("the baseline is not a JSON object", where=str(path), hint=hint)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InvalidBaselineError(
            f"the baseline's schema version is {version!r}",
            where=str(path),
            expected=str(SCHEMA_VERSION),
            hint="write it again with this version of edgecompile, and review the difference",
        )
    baseline = parse(Baseline, data, InvalidBaselineError, lambda _: path)
    problem = baseline.build.inconsistent()
    if problem:
        raise InvalidBaselineError("the baseline was damaged", where=str(path), found=problem, hint=hint)
    return baseline


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline; one line for what is read as one.

    Raises:
        OutputNotWritableError: The file cannot be written.
    """
    document = dataclasses.asdict(baseline)
    document["tolerances"] = baseline.tolerances.changed()
    write_text(path, _lines(document) + "\n")


def check_comparable(baseline: Baseline, build: BuildFacts, path: Path) -> None:
    """Check that a baseline is of the same model, target and data as a build.

    Raises:
        BaselineMismatchError: It is of another model, target or precision.
        EvaluationDataChangedError: The quality was measured on other data.
    """
    kept = baseline.build
    for name in ("name", "target", "precision", "inputs", "outputs"):
        expected, found = getattr(kept, name), getattr(build, name)
        if expected != found:
            raise BaselineMismatchError(
                f"the baseline is not of this build: its {name} {_verb(name)} another",
                where=str(path),
                expected=_shown(expected),
                found=_shown(found),
                hint="give the baseline of this model and target, or write a new one: "
                "`edgecompile baseline BUNDLE -o FILE`",
            )
    if kept.data_sha256 != build.data_sha256:
        raise EvaluationDataChangedError(
            "the quality of this build was measured on other data than the baseline's",
            where=str(path),
            expected=f"{kept.samples} samples, SHA-256 {kept.data_sha256}",
            found=f"{build.samples} samples, SHA-256 {build.data_sha256}",
            hint="build with the same --evaluation data; where it was meant to change, build the last good "
            "model with it, and write a new baseline",
        )


def _verb(name: str) -> str:
    return "are" if name.endswith("s") else "is"


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return "\n".join(f"{item.name}: {item.dtype} {list(item.shape)}" for item in value)


def _lines(value: Any, indent: str = "") -> str:
    """Return JSON in which only objects that hold others take more than a line."""
    short = json.dumps(value, allow_nan=False)
    if not isinstance(value, dict) or not any(isinstance(item, dict | list) for item in value.values()):
        return short
    deeper = indent + " "
    rows = [f"{deeper}{json.dumps(key)}: {_lines(item, deeper)}" for key, item in value.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
