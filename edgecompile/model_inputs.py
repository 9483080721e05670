"""The example inputs of a model: tensors in tuples, lists and dictionaries, and their names in a graph."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ShapesCollection
from torch.utils import _pytree

from edgecompile.dynamic_size import BATCH, MAX_BATCH, WantedSize
from edgecompile.errors import (
    InvalidDynamicSizeError,
    MissingExampleInputsError,
    NotAModuleError,
    did_you_mean,
)
from edgecompile.program import SourceModel
from edgecompile.symbolic_sizes import dimension

Structure = tuple[tuple[Any, ...], dict[str, Any]]
"""What `forward` takes in order, and what it takes by name."""


def example_inputs(spec: str, inputs: object) -> Structure:
    """Return the example inputs that a model's function returned.

    Args:
        spec: Of the function.
        inputs: A tensor; a tuple or list of what `forward` takes in order; or a dictionary of what it takes
            by name. Each may be a tensor or a tuple, list or dictionary of such.

    Raises:
        MissingExampleInputsError: There are none.
        NotAModuleError: They hold something else than tensors.
    """
    if inputs is None:
        raise MissingExampleInputsError(
            f"the model function {spec!r} returned no example inputs",
            expected="a tuple (nn.Module, example inputs)",
            hint="return e.g. `model, (torch.rand(1, 3, 224, 224),)`",
        )
    listed = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    wrong = [leaf for leaf in _pytree.tree_leaves(_plain(listed)) if not isinstance(leaf, torch.Tensor)]
    if wrong:
        raise NotAModuleError(
            f"the model function {spec!r} returned example inputs of type {type(inputs).__name__}",
            expected="a tensor, a tuple of tensors, or a dictionary of them by the names of forward's "
            "arguments; tuples, lists and dictionaries may lie in one another",
            found=", ".join(dict.fromkeys(type(leaf).__name__ for leaf in wrong)),
        )
    plain = _pytree.tree_map(lambda tensor: tensor.detach().contiguous(), _plain(listed))
    # A channels-last example would be captured with its strides, which no engine's input has.
    return ((), plain) if isinstance(plain, dict) else (tuple(plain), {})


def _plain(value: Any) -> Any:
    """Return a structure of tuples, lists and dictionaries: mappings of libraries become dictionaries."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_plain, value))
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value)) if isinstance(value, tuple) else list(map(_plain, value))
    return value


def in_order(module: torch.nn.Module, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `forward` takes by name in the order of its arguments, which becomes that of the inputs."""
    known = [name for name in inspect.signature(module.forward).parameters if name in keywords]
    return {name: keywords[name] for name in known} | dict(keywords)


def register_results(value: object) -> None:
    """Let torch.export look into the data classes and mappings that a model returned."""
    kind = type(value)
    parts: list[object] = []
    if isinstance(value, Mapping):
        parts = list(value.values())
        if kind not in _pytree.SUPPORTED_NODES:
            _pytree.register_pytree_node(
                kind,
                lambda mapping: (list(mapping.values()), list(mapping)),
                lambda values, keys: kind(zip(keys, values, strict=True)),  # type: ignore[call-arg]
            )
    elif isinstance(value, tuple | list):
        parts = list(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, part.name) for part in dataclasses.fields(value)]
        if kind not in _pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(kind)
    for part in parts:
        register_results(part)


def copied_inputs(inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Structure:
    """Return the same structure with a copy of each tensor, also of one that it holds twice."""
    copied: Structure = _pytree.tree_map(lambda tensor: tensor.detach().clone(), (inputs, dict(keywords)))
    return copied


def described_inputs(inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    """Return the shapes and dtypes of the tensors."""
    leaves = _pytree.tree_leaves((inputs, dict(keywords)))
    return ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in leaves)


def named_inputs(
    module: torch.nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the tensors by the names that they have in the graph.

    As torch.export names them: after the arguments of `forward`, with the keys and places inside an argument
    behind an underscore, in small letters.
    """
    arguments = inspect.signature(module.forward).bind(*inputs, **keywords).arguments
    return {
        "_".join(_key(part) for part in path).lower(): tensor
        for path, tensor in _pytree.tree_flatten_with_path(_without_keywords(module, arguments))[0]
    }


def _without_keywords(module: torch.nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments with those of `**kwargs` under their own names."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        collects = inspect.signature(module.forward).parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        found |= value if collects else {name: value}
    return found


def _key(part: Any) -> str:
    """Return a key of a path as a part of a name."""
    key = getattr(part, "key", getattr(part, "idx", getattr(part, "name", part)))
    return re.sub(r"\W", "_", str(key))


def batched(source: SourceModel, others: Sequence[WantedSize]) -> tuple[WantedSize, ...]:
    """Return the first axis of every input as the size `batch`.

    Raises:
        InvalidDynamicSizeError: Another size is said of such an axis.
    """
    for size in others:
        if size.axis == 0 or size.name == BATCH:
            raise InvalidDynamicSizeError(
                "--dynamic-batch says the first axis of every input",
                found=f"{size.input}:{size.axis}={size.name} as well",
                hint="leave --dynamic-batch out, and say with --dynamic which axes are the batch",
            )
    if source.module is None:
        return ()
    tensors = named_inputs(source.module, source.example_inputs, source.example_keywords)
    return tuple(
        WantedSize(input=name, axis=0, name=BATCH, minimum=1, maximum=MAX_BATCH)
        for name, tensor in tensors.items()
        if tensor.dim() > 0
    )


def with_dynamic_sizes(
    module: torch.nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], wanted: Sequence[WantedSize]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Return example inputs that torch.export can trace, and what it is told of their sizes.

    torch.export takes a size of one step for a constant, so it is shown two instead.

    Raises:
        InvalidDynamicSizeError: A size is of no axis of the inputs, or the examples contradict it.
    """
    if not wanted:
        return inputs, keywords, None
    tensors = named_inputs(module, inputs, keywords)
    lengths: dict[str, int] = {}
    for size in wanted:
        _check(size, tensors, lengths)
    grown = {
        name: _grown(tensor, [size for size in wanted if size.input == name])
        for name, tensor in tensors.items()
    }
    by_identity = {id(tensor): grown[name] for name, tensor in tensors.items()}
    inputs, keywords = _pytree.tree_map(lambda tensor: by_identity[id(tensor)], (inputs, keywords))
    dims = {size.name: dimension(size.name, size.minimum, size.maximum, size.step) for size in wanted}
    shapes = ShapesCollection()  # type: ignore[no-untyped-call]
    for name, tensor in grown.items():
        own = {size.axis: dims[size.name] for size in wanted if size.input == name}
        if own:
            shapes[tensor] = own
    return inputs, keywords, shapes


def _check(size: WantedSize, tensors: Mapping[str, torch.Tensor], lengths: dict[str, int]) -> None:
    where = f"{size.input}:{size.axis}={size.name}"
    tensor = tensors.get(size.input)
    if tensor is None:
        guess = did_you_mean(size.input, tensors)
        raise InvalidDynamicSizeError(
            f"the model has no input {size.input!r}",
            where=where,
            known=", ".join(tensors),
            hint=f"did you mean {guess!r}?" if guess else None,
        )
    if size.axis >= tensor.dim():
        raise InvalidDynamicSizeError(
            f"the input {size.input!r} has no axis {size.axis}",
            where=where,
            expected=f"0 to {tensor.dim() - 1}" if tensor.dim() else "an input with axes",
            found=f"an example of shape {list(tensor.shape)}",
        )
    length = tensor.shape[size.axis]
    if not size.admits(length):
        raise InvalidDynamicSizeError(
            f"the example of {size.input!r} is outside the bounds of {size.name!r}",
            where=where,
            expected=size.bounds,
            found=str(length),
            hint="return an example input within the bounds",
        )
    if lengths.setdefault(size.name, length) != length and 1 not in (length, lengths[size.name]):
        raise InvalidDynamicSizeError(
            f"axes of the size {size.name!r} are not equally long in the example inputs",
            where=where,
            found=f"{lengths[size.name]} and {length}",
            hint="return examples that fit together, or use two names for sizes that may differ",
        )


def _grown(tensor: torch.Tensor, sizes: Sequence[WantedSize]) -> torch.Tensor:
    for size in sizes:
        if tensor.shape[size.axis] == size.step:
            tensor = torch.cat([tensor, tensor], size.axis)
    return tensor
