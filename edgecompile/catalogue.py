"""The folder is the registry: a kebab-case name is a module, and the module holds one class.

`fuse-conv-batchnorm` in `edgecompile.passes` is `edgecompile/passes/fuse_conv_batchnorm.py`, class
`FuseConvBatchnorm`. Listing and describing read file names and docstrings only, so that
`edgecompile passes` does not wait for torch.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"{package} is not a package")
    return Path(next(iter(spec.submodule_search_locations)))


def names(package: str) -> tuple[str, ...]:
    """Return the names in `package` ("edgecompile.passes"), sorted; private modules are skipped."""
    stems = (path.stem for path in _folder(package).glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_")))


def load(package: str, name: str) -> type:
    """Import the module of `name` and return its class.

    Raises:
        LookupError: The package has no such name. What a user names is checked before, by its own
            error class, so this one is a bug of ours.
    """
    if name not in names(package):
        raise LookupError(f"{package} has no {name!r}; it has {', '.join(names(package)) or 'nothing'}")
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    found = getattr(module, "".join(word.capitalize() for word in name.split("-")))
    if not isinstance(found, type):
        raise TypeError(f"{module.__name__}.{found!r} is not a class")
    return found


def summary(package: str, name: str) -> str:
    """Return the first line of the module's docstring, without importing the module."""
    source = (_folder(package) / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
