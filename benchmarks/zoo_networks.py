"""The networks of `benchmarks/zoo.py`: `NAME` is the function of one, `NAME__samples` of what it reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import zoo_timm
import zoo_transformers
import zoo_written
from zoo_table import source_of

_SOURCES: dict[str, ModuleType] = {"transformers": zoo_transformers, "written": zoo_written}
_LIST = Path(__file__).with_name("zoo_timm.txt")


def __getattr__(name: str) -> Callable[[], Any]:
    """Return the function of a network or of its samples."""
    if name.startswith("_"):
        raise AttributeError(name)
    network, _, what = name.partition("__")
    source = source_of(network)
    module, own = _SOURCES.get(source, zoo_timm), network.removeprefix(f"{source}_")
    return functools.partial(module.samples if what == "samples" else module.model, own)


def listed() -> list[str]:
    """Return the names of all."""
    lines = [line.split("#")[0].strip() for line in _LIST.read_text().splitlines()]
    others = [f"{source}_{name}" for source, module in _SOURCES.items() for name in module.NETWORKS]
    return [line for line in lines if line] + others
