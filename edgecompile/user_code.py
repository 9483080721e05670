"""Functions in the user's own files: `file.py:function` and `package.module:function`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecompile.errors import (
    InvalidModelSpecError,
    ModelFunctionFailedError,
    ModelNotFoundError,
    did_you_mean,
)

_OWN_FOLDER = str(Path(__file__).resolve().parent)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def split_spec(spec: str) -> tuple[str, str]:
    """Split `file.py:function` or `package.module:function` into its two halves.

    Raises:
        InvalidModelSpecError: It is neither.
    """
    source, _, function = spec.rpartition(":")
    is_module = all(part.isidentifier() for part in source.split("."))
    if function.isidentifier() and source and (source.endswith(".py") or is_module):
        return source, function
    functions = _functions_in(Path(spec)) if spec.endswith(".py") else ()
    likely = "model" if "model" in functions else next(iter(functions), None)
    raise InvalidModelSpecError(
        f"{spec!r} names no function",
        expected="file.py:function, package.module:function or file.pt2",
        known=", ".join(functions),
        hint=f"did you mean '{spec}:{likely}'?" if likely else None,
    )


def check_spec(spec: str) -> None:
    """Check what can be checked without running the user's code.

    Raises:
        InvalidModelSpecError: It names no function.
        ModelNotFoundError: It names a file that does not exist.
    """
    source, _ = split_spec(spec)
    if source.endswith(".py") and not Path(source).is_file():
        raise _no_such_file(Path(source))


def load_function(spec: str) -> Callable[..., Any]:
    """Import the file or module of `spec` and return its function.

    As `python file.py` would, this puts the file's folder (for a module: the current folder) on
    `sys.path`, so that the user's code finds its neighbours. A file is imported once a process.

    Raises:
        InvalidModelSpecError: `spec` names no function.
        ModelNotFoundError: There is no such file, module or function.
        ModelFunctionFailedError: Importing the file raised.
    """
    source, name = split_spec(spec)
    module = _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]  # `callable` narrows to Any
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    guess = did_you_mean(name, own)
    raise ModelNotFoundError(
        f"{source!r} has no function {name!r}",
        where=module.__file__,
        known=", ".join(own) or "(the file defines no function)",
        hint=f"did you mean '{source}:{guess}'?" if guess else None,
    )


def describe(error: BaseException) -> str:
    """Return an exception as the last line of a traceback shows it."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def user_location(error: BaseException) -> str | None:
    """Return `file.py:12` where the user's own code was when `error` was raised, or None."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_users(frame.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def _is_users(filename: str) -> bool:
    installed = (_OWN_FOLDER, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    return not filename.startswith(installed)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _no_such_file(path)
    path = path.resolve()
    # Not the bare stem: a user's `json.py` must not take the standard library's place.
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _extend_path(path.parent)
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None  # a .py file always has a loader
    module = sys.modules[name] = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    _extend_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _import_failed(name, error) from error
        raise ModelNotFoundError(
            f"there is no module {error.name!r}",
            hint="modules are looked for in the current folder and among the installed packages",
        ) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _import_failed(source: str, error: BaseException) -> ModelFunctionFailedError:
    return ModelFunctionFailedError(
        f"importing {source!r} raised", where=user_location(error), found=describe(error)
    )


def _extend_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _no_such_file(path: Path) -> ModelNotFoundError:
    folder = path.parent
    neighbours = [other.name for other in folder.glob("*.py")] if folder.is_dir() else []
    guess = did_you_mean(path.name, neighbours)
    return ModelNotFoundError(
        f"there is no file '{path}'", hint=f"did you mean '{folder / guess}'?" if guess else None
    )


def _functions_in(path: Path) -> tuple[str, ...]:
    """Return the public functions of a file without running it."""
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return ()
    defined = (node.name for node in body if isinstance(node, ast.FunctionDef))
    return tuple(name for name in defined if not name.startswith("_"))
