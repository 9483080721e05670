"""Where the folders that ship beside the code live: the only place that knows both layouts."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    """Return the wheel's copy if there is one, else the checkout's folder beside the package."""
    shipped = _PACKAGE / "_shipped" / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def targets_folder() -> Path:
    """Return the folder of the targets' TOML files."""
    return _folder("targets")


def device_profiles_folder() -> Path:
    """Return the folder of the devices' TOML files."""
    return _folder("device_profiles")


def runners_folder() -> Path:
    """Return the folder of the runners' C++ sources."""
    return _folder("runners")
