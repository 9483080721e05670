"""What stands before and after a model: how a picture becomes its input, and its output named classes.

The table `[pipeline]` of the config file, and `pipeline` in the manifest; `edgecompile embed` writes it out
for each platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeVar

from pydantic import Field, with_config

from edgecompile.errors import EdgecompileError
from edgecompile.problems import Problems
from edgecompile.strict_toml import STRICT

if TYPE_CHECKING:
    from edgecompile.picture import Preparation

LABELS = "labels.txt"
"""The names of the classes in a bundle, one a line."""

_MOST_PIXELS = 1 << 14


class Tensor(Protocol):
    """What is asked of an input or output of a model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int | None, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102


_Tensor = TypeVar("_Tensor", bound=Tensor)


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class PictureInput:
    """How a picture becomes an input; docs/embed.md defines the arithmetic.

    Attributes:
        input: Its name; None for the only one.
        short_side: What the picture's shorter side becomes before the center is cropped, in pixels; None
            where the whole picture becomes the input's size.
        channels: The input's: their order, or "grey".
        layout: The input's: (N, C, H, W) or (N, H, W, C).
        divide_by: What the values, 0 to 255, are divided by.
        mean: Subtracted after that; one number, or one for each channel.
        std: Divided by after that.
    """

    input: str | None = None
    short_side: Annotated[int, Field(ge=1, le=_MOST_PIXELS)] | None = None
    channels: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    divide_by: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)

    @property
    def channel_count(self) -> int:
        """How many channels the input has."""
        return 1 if self.channels == "grey" else 3

    def preparation(self, shape: Sequence[int | None]) -> Preparation:
        """Return the arithmetic for an input of a shape that fits."""
        from edgecompile.picture import Preparation  # numpy is not needed to read a manifest

        height, width = shape[2:] if self.layout == "nchw" else shape[1:3]
        assert height is not None and width is not None  # `fitted` has checked it
        return Preparation(
            height=height,
            width=width,
            short_side=self.short_side,
            channels=self.channels,
            layout=self.layout,
            divide_by=self.divide_by,
            mean=self.mean,
            std=self.std,
        )


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class ClassesOutput:
    """How an output becomes named classes.

    Attributes:
        output: Its name; None for the only one.
        softmax: Whether scores are shares of 1.
        top_k: How many classes are told, the best first.
        labels: The file of their names, one a line; None for numbers.
    """

    output: str | None = None
    softmax: bool = True
    top_k: Annotated[int, Field(ge=1)] = 5
    labels: str | None = None


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What stands before and after a model; None for nothing."""

    picture: PictureInput | None = None
    classes: ClassesOutput | None = None


def fitted(
    pipeline: Pipeline,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    label_count: int | None,
    error: type[EdgecompileError],
    where: str,
) -> Pipeline:
    """Return a pipeline that says everything, checked against a model.

    Args:
        pipeline: As it was declared.
        inputs: The model's.
        outputs: The model's.
        label_count: How many names there are; None for no names.
        error: The class of what is wrong.
        where: What says the pipeline.

    Raises:
        EdgecompileError: Of class `error`; the pipeline does not fit the model.
        ConfigurationErrors: Several things do not fit.
    """
    problems = Problems()
    picture, classes = pipeline.picture, pipeline.classes
    if picture is not None:
        with problems.collecting():
            picture = fitted_picture(picture, inputs, error, where)
    if classes is not None:
        with problems.collecting():
            classes = _fitted_classes(classes, outputs, label_count, error, where)
    problems.raise_any()
    return Pipeline(picture=picture, classes=classes)


def fitted_picture(
    picture: PictureInput, inputs: Sequence[Tensor], error: type[EdgecompileError], where: str
) -> PictureInput:
    """Return how a picture becomes one of a model's inputs, with everything said.

    Raises:
        EdgecompileError: Of class `error`; it does not fit.
    """
    place = f"{where}: pipeline.picture"
    tensor = _named(picture.input, inputs, "input", error, place)
    count = picture.channel_count
    sizes: tuple[int | None, ...] = ()
    if len(tensor.shape) == 4:
        batch, *rest = tensor.shape
        channels, height, width = rest if picture.layout == "nchw" else (rest[2], rest[0], rest[1])
        sizes = (height, width) if batch in (None, 1) and channels == count else ()
    if tensor.dtype != "float32" or None in sizes or not sizes:
        expected = f"1, {count}, height, width" if picture.layout == "nchw" else f"1, height, width, {count}"
        raise error(
            f"a picture does not fit the input {tensor.name!r}",
            where=place,
            expected=f"float32 [{expected}], for channels {picture.channels!r}, layout {picture.layout!r}",
            found=f"{tensor.dtype} {_shown(tensor.shape)}",
        )
    most = max(size for size in sizes if size is not None)
    if not 1 <= most <= _MOST_PIXELS:
        raise error(f"the input {tensor.name!r} has no size of a picture", where=place, found=str(most))
    if picture.short_side is not None and picture.short_side < most:
        raise error(
            f"no center of {_shown(sizes)} can be cropped",
            where=f"{place}.short_side",
            expected=f"at least {most}",
            found=str(picture.short_side),
        )
    for key, numbers in (("mean", picture.mean), ("std", picture.std)):
        if len(numbers) not in (1, count):
            raise error(
                "there is not one number for each channel",
                where=f"{place}.{key}",
                expected=f"1 or {count} numbers",
                found=str(len(numbers)),
            )
    mean, std = ((numbers * count)[:count] for numbers in (picture.mean, picture.std))
    return replace(picture, input=tensor.name, mean=mean, std=std)


def _fitted_classes(
    classes: ClassesOutput,
    outputs: Sequence[Tensor],
    label_count: int | None,
    error: type[EdgecompileError],
    where: str,
) -> ClassesOutput:
    place = f"{where}: pipeline.classes"
    tensor = _named(classes.output, outputs, "output", error, place)
    match tensor.shape:
        case (None | 1, int(count)) if tensor.dtype == "float32" and count > 0:
            pass
        case _:
            raise error(
                f"the output {tensor.name!r} does not hold a value for each class",
                where=place,
                expected="float32 [1, classes]",
                found=f"{tensor.dtype} {_shown(tensor.shape)}",
            )
    if label_count not in (None, count):
        raise error(
            "there is not one label for each class",
            where=f"{place}.labels",
            expected=f"{count} lines, as {tensor.name!r} has values",
            found=f"{label_count} lines",
        )
    return replace(
        classes,
        output=tensor.name,
        top_k=min(classes.top_k, count),
        labels=None if label_count is None else LABELS,
    )


def _named(
    name: str | None, tensors: Sequence[_Tensor], kind: str, error: type[EdgecompileError], where: str
) -> _Tensor:
    """Return the tensor of that name, or the only one."""
    found = [tensor for tensor in tensors if name in (None, tensor.name)]
    if len(found) == 1:
        return found[0]
    message = f"the model has {len(found)} {kind}s" if name is None else f"there is no {kind} {name!r}"
    known = ", ".join(tensor.name for tensor in tensors)
    raise error(message, where=f"{where}.{kind}", known=known, hint=f"say which with `{kind} = NAME`")


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def read_labels(data: bytes, error: type[EdgecompileError], where: str) -> tuple[str, ...]:
    """Return the names of classes.

    Args:
        data: One name a line, in UTF-8.
        error: The class of what is wrong.
        where: What they are of.

    Raises:
        EdgecompileError: Of class `error`; it is no such text.
    """
    try:
        names = data.decode("utf-8").removesuffix("\n").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as problem:
        raise error("the labels are not UTF-8", where=where, found=str(problem)) from problem
    for line, name in enumerate(names, 1):
        if not name.strip() or not name.isprintable():
            raise error(
                "a label is not a name",
                where=f"{where}, line {line}",
                found=repr(name[:40]),
                expected="a name",
            )
    return tuple(names)


def read_label_file(path: Path, error: type[EdgecompileError], where: str) -> tuple[str, ...]:
    """Return the names that a file holds.

    Raises:
        EdgecompileError: Of class `error`; it cannot be read, or is no such text.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise error(
            f"the labels cannot be read: {problem.strerror}",
            where=f"{where}: pipeline.classes.labels",
            found=str(path),
        ) from problem
    return read_labels(data, error, str(path))


def labels_data(labels: Sequence[str]) -> bytes:
    """Return the bytes that `read_labels` reads."""
    return "".join(f"{name}\n" for name in labels).encode()
