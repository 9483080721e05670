"""The versions whose internals the emitters were written for; others take their libraries' own way."""

from __future__ import annotations

from importlib.metadata import version

_KNOWN_VERSIONS = {"executorch": "1.5.1", "onnxscript": "0.7.2", "torch": "2.13.0"}


def is_known(*packages: str) -> bool:
    """Tell whether the installed versions of these packages are the known ones."""
    return all(version(name).partition("+")[0] == _KNOWN_VERSIONS.get(name) for name in packages)
