"""A program that `torch.export.save` wrote, `.pt2`, read as what anyone may have made."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree

from edgecompile.errors import (
    EdgecompileError,
    ModelNotFoundError,
    UnreadableModelFileError,
)
from edgecompile.program import SourceModel
from edgecompile.user_code import first_line

_SAVE_AGAIN = f"save it again with torch.export.save of torch {torch.__version__}"
# What torch.export.save writes; all else (compiled libraries, pickles, older forms) is refused unread.
_MEMBER = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/[a-z_]+|\.format_version|"
    r"\.storage_alignment|models/model\.json|extra/[^/]+|data/sample_inputs/model\.pt|"
    r"data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json))"
)
# What sizes are made of: they are handed to a parser that evaluates them, calls of builtins included.
_SIZE_EXPRESSION = re.compile(r"[A-Za-z0-9_ +\-*/(),<>=!]*")
_QUOTED_SYMBOL = re.compile(r"Symbol\('([suz][a-z]?\d+)'")
_SIZE_WORD = re.compile(
    r"Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|RoundToInt|"
    r"IntTrueDiv|FloatTrueDiv|ToFloat|PowByNatural|Identity|Symbol|Add|Mul|Pow|Integer|Rational|"
    r"Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|Lt|Le|Gt|Ge|And|Or|"
    r"Not|positive|nonnegative|negative|integer|real|finite|int_oo|True|False|[suz][a-z]?\d+"
)


def load_saved_program(path: Path) -> SourceModel:
    """Read a program; it runs no code of its own.

    Raises:
        ModelNotFoundError: There is no such file.
        UnreadableModelFileError: It is no such archive, or holds what could run code.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {str(path)!r}", hint="save it with torch.export.save")
    try:
        _refuse_code(path)
        exported = torch.export.load(path)
    except EdgecompileError:
        raise
    except Exception as error:
        raise UnreadableModelFileError(
            f"{str(path)!r} cannot be read as a program of torch.export: {first_line(error)}",
            hint=_SAVE_AGAIN,
        ) from error
    inputs = exported.example_inputs
    leaves = _pytree.tree_leaves(inputs) if inputs is not None else _zeros_like_inputs(exported)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
    return SourceModel(name=path.stem, module=None, exported=exported, example_inputs=tensors)


def _zeros_like_inputs(exported: ExportedProgram) -> list[torch.Tensor]:
    placeholders = {node.name: node.meta["val"] for node in exported.graph.find_nodes(op="placeholder")}
    values = [placeholders[str(name)] for name in exported.graph_signature.user_inputs]
    sizes = [[1 if isinstance(size, torch.SymInt) else size for size in value.shape] for value in values]
    return [torch.zeros(size, dtype=value.dtype) for size, value in zip(sizes, values, strict=True)]


def _refuse_code(path: Path) -> None:
    """Refuse an archive that would run code of its own when it is loaded (pickles, evaluated sizes)."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        # Readers differ in which of two equal names they take, and in whether case matters.
        if len({name.lower() for name in names}) != len(names):
            raise UnreadableModelFileError(f"{str(path)!r} holds a name twice")
        for name in names:
            if not _MEMBER.fullmatch(name):
                raise UnreadableModelFileError(
                    f"{str(path)!r} holds what torch.export.save does not write, which could run code",
                    where=name,
                    hint=_SAVE_AGAIN,
                )
            if "/data/sample_inputs/" in name:
                data = archive.read(name)
                if data:  # a program may be saved without example inputs
                    torch.load(io.BytesIO(data), weights_only=True)
            elif name.endswith("_config.json"):
                config = json.loads(archive.read(name)).get("config", {})
                if any(entry.get("use_pickle") for entry in config.values()):
                    raise UnreadableModelFileError(
                        f"{str(path)!r} holds pickled objects, which could run code", where=name
                    )
            elif "/models/" in name and name.endswith(".json"):
                _refuse_expressions(path, json.loads(archive.read(name)))


def _is_size(text: object) -> bool:
    if not isinstance(text, str):
        return False
    text = _QUOTED_SYMBOL.sub(r"Symbol(\1", text)
    if not _SIZE_EXPRESSION.fullmatch(text):
        return False
    words = re.findall(r"[A-Za-z_]\w*", text)
    return all(_SIZE_WORD.fullmatch(word) for word in words)


def _refuse_expressions(path: Path, value: object) -> None:
    if isinstance(value, dict):
        text = value.get("expr_str")
        if text is not None and not _is_size(text):
            raise UnreadableModelFileError(f"{str(path)!r} holds a size that is no expression: {text!r:.80}")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_expressions(path, item)
