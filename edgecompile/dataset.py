"""Calibration and evaluation data: `.npz`, a folder of `.npy` or images, or the user's function."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from edgecompile.dynamic_size import BATCH, DynamicSize, shape_text, sizes_that_differ
from edgecompile.errors import (
    DataMismatchError,
    EdgecompileError,
    EmptyDataError,
    InvalidModelSpecError,
    NotFiniteDataError,
    UnreadableDataError,
    did_you_mean,
)
from edgecompile.sample_structure import in_row
from edgecompile.user_code import check_spec, describe, load_function, user_location

if TYPE_CHECKING:
    import torch

_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMS = "a .npz file, a folder of .npy files or images, or file.py:function"

NOISE = "seeded noise (no data was given)"
"""What a dataset is called that no user gave."""

T = TypeVar("T")
RawSample = tuple[tuple[Any, ...], Any]
"""The inputs of a sample as arrays or tensors, and its label or None; nothing is checked yet."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """What a model's input must look like.

    Attributes:
        shape: The size of each dimension, batch first; None where any size will do.
        dtype: As torch and numpy name it: "float32", "int64".
        dynamic: The name and bounds of each size that is None.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    dynamic: tuple[DynamicSize, ...] = ()

    def __str__(self) -> str:
        return f"{self.dtype} {shape_text(self.shape, self.dynamic)}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample: the model's inputs with a batch of 1, and the class if it is known."""

    inputs: tuple[torch.Tensor, ...]
    label: int | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples that fit the model, in order.

    Attributes:
        spec: What the user wrote, for the report.
    """

    samples: tuple[Sample, ...]
    spec: str


def check_data(spec: str) -> None:
    """Check cheaply, before any work, that the data exists and has a known form.

    Raises:
        UnreadableDataError: It does not.
    """
    path = Path(spec)
    if path.is_dir() or (path.suffix == ".npz" and path.is_file()):
        return
    if ":" not in spec:
        found = "a file of another form" if path.exists() else "no such file or folder"
        raise UnreadableDataError(f"cannot read data from {spec!r}", expected=_FORMS, found=found)
    try:
        check_spec(spec)
    except EdgecompileError as error:
        expected = _FORMS if isinstance(error, InvalidModelSpecError) else None
        raise UnreadableDataError(error.message, **error.lines | {"expected": expected}) from error


def load_dataset(spec: str, inputs: tuple[TensorSpec, ...], limit: int | None = None) -> Dataset:
    """Read data and check every sample against the model's inputs.

    Args:
        spec: A `.npz` (arrays named as the inputs, or a single one; the leading axis counts samples;
            `labels` is optional), a folder of `.npy` or of images (one sample each, sorted by name),
            or `file.py:function` that yields inputs or (inputs, label).
        inputs: The model's inputs, in order.
        limit: The most samples to read. A function gives its first ones; a file or folder gives evenly
            spaced ones, because its samples are often sorted by class.

    Raises:
        UnreadableDataError: The data is missing or damaged, or the user's function raised.
        EmptyDataError: There is no sample.
        DataMismatchError: A sample does not have the inputs' names, shapes or dtypes.
        NotFiniteDataError: A sample holds NaN or infinity.
    """
    check_data(spec)
    path = Path(spec)
    if path.is_dir():
        raw = _from_folder(path, inputs, limit)
    elif path.is_file():
        raw = _from_npz(path, inputs, limit)
    else:
        raw = _from_function(spec, inputs, limit)
    samples = tuple(checked_sample(item, inputs, index, spec) for index, item in enumerate(raw))
    if not samples:
        raise EmptyDataError(f"{spec!r} holds no sample")
    return Dataset(samples=samples, spec=spec)


def spread(items: Sequence[T], limit: int) -> list[T]:
    """Return at most `limit` items, evenly spaced."""
    return [items[index] for index in _spread(len(items), limit)]


def _spread(count: int, limit: int | None) -> range | list[int]:
    """Return the indices of at most `limit` of `count` samples, evenly spaced."""
    if limit is None or limit >= count:
        return range(count)
    return [position * count // limit for position in range(limit)]


def _from_npz(path: Path, inputs: tuple[TensorSpec, ...], limit: int | None) -> Iterator[RawSample]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableDataError(f"cannot read {str(path)!r}", found=describe(error)) from error
    names = [spec.name for spec in inputs]
    labels = arrays.pop("labels", None) if "labels" not in names else None
    if len(arrays) == len(names) == 1:
        names = list(arrays)
    if set(arrays) != set(names):
        wrong = next(iter(sorted(set(arrays) - set(names))), "")
        guess = did_you_mean(wrong, names)
        raise DataMismatchError(
            "the arrays are not named as the model's inputs",
            where=str(path),
            expected=", ".join(names),
            found=", ".join(arrays) or "no array",
            hint=f"rename {wrong!r} to {guess!r}" if guess else None,
        )
    columns = [arrays[name] for name in names]
    columns += [labels] if labels is not None else []
    lengths = {len(column) if column.ndim else None for column in columns}
    if len(lengths) != 1 or None in lengths:
        shapes = zip((*names, "labels"), columns, strict=False)
        found = ", ".join(f"{name} {list(column.shape)}" for name, column in shapes)
        raise DataMismatchError(
            "the arrays do not hold the same number of samples",
            where=str(path),
            expected="one leading axis for the samples, equally long in all arrays",
            found=found,
        )
    for index in _spread(len(columns[0]), limit):
        values = tuple(arrays[name][index] for name in names)
        yield values, None if labels is None else labels[index]


def _from_folder(folder: Path, inputs: tuple[TensorSpec, ...], limit: int | None) -> Iterator[RawSample]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    arrays = [path for path in files if path.suffix == ".npy"]
    images = [path for path in files if path.suffix.lower() in _IMAGE_SUFFIXES]
    if arrays and images:
        raise UnreadableDataError(f"'{folder}' holds both .npy files and images", expected=_FORMS)
    if len(inputs) != 1:
        raise DataMismatchError(
            "a folder holds one input a file",
            where=str(folder),
            expected=f"{len(inputs)} inputs: {', '.join(spec.name for spec in inputs)}",
            hint="use a .npz with one array for each input, or file.py:function",
        )
    chosen = arrays or images
    read = _read_npy if arrays else _image_reader(folder, inputs[0])
    for index in _spread(len(chosen), limit):
        path = chosen[index]
        try:
            value = read(path)
        except (OSError, ValueError, EOFError) as error:
            raise UnreadableDataError(f"cannot read '{path}'", found=describe(error)) from error
        yield (value,), None


def _read_npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _image_reader(folder: Path, spec: TensorSpec) -> Callable[[Path], Any]:
    """Return what reads an image as (1, C, H, W): scaled to cover, centre-cropped, float32 in [0, 1]."""
    from PIL import Image, ImageOps

    match spec.shape:
        case (_, 1 | 3 as channels, int(height), int(width)) if spec.dtype == "float32":
            pass
        case _:
            raise DataMismatchError(
                f"images do not fit the input {spec.name!r}",
                where=str(folder),
                expected=f"an input of {spec}",
                found="images, which give float32 [1, 1 or 3, height, width] of a fixed height and width",
                hint="use a .npz or file.py:function",
            )

    def read(path: Path) -> Any:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(fitted, dtype=np.float32).reshape(height, width, channels) / np.float32(255)
        return pixels.transpose(2, 0, 1)[None]

    return read


def _from_function(spec: str, inputs: tuple[TensorSpec, ...], limit: int | None) -> Iterator[RawSample]:
    try:
        function = load_function(spec)
    except EdgecompileError as error:
        raise UnreadableDataError(error.message, **error.lines) from error
    try:
        produced = function()
        items: Iterable[Any] = iter(produced)
        for index, item in enumerate(islice(items, limit)):
            values, label = _split_label(item, len(inputs))
            yield in_row(values, [entry.name for entry in inputs], f"{spec}, sample {index}"), label
    except EdgecompileError:
        raise
    except (Exception, SystemExit) as error:
        raise UnreadableDataError(
            f"{spec!r} raised", where=user_location(error), found=describe(error)
        ) from error


def _split_label(item: Any, input_count: int) -> tuple[Any, Any]:
    """Take apart what a user's function yields: inputs, or (inputs, label)."""
    if isinstance(item, Sequence) and len(item) == 2 and (_is_label(item[1]) or input_count == 1):
        return item[0], item[1]
    return item, None


def _is_label(value: Any) -> bool:
    return isinstance(value, int | np.integer)


def checked_sample(raw: RawSample, inputs: tuple[TensorSpec, ...], index: int, source: str) -> Sample:
    """Return a sample that fits a model's inputs.

    Args:
        raw: Its inputs, with or without a batch axis of 1, and its label.
        inputs: What the model takes.
        index: Which sample it is, for errors.
        source: What it is of, for errors.

    Raises:
        DataMismatchError: It does not have the inputs' number, shapes or dtypes.
        NotFiniteDataError: It holds NaN or infinity.
    """
    values, label = raw
    where = f"{source}, sample {index}"
    if len(values) != len(inputs):
        raise DataMismatchError(
            "a sample does not have the model's number of inputs",
            where=where,
            expected=f"{len(inputs)}: {', '.join(spec.name for spec in inputs)}",
            found=str(len(values)),
        )
    tensors = tuple(_fitted(value, spec, where) for value, spec in zip(values, inputs, strict=True))
    differing = sizes_that_differ([tensor.shape for tensor in tensors], [spec.dynamic for spec in inputs])
    if differing:
        name, lengths = differing
        raise DataMismatchError(
            f"axes of the size {name!r} are not equally long",
            where=where,
            expected="; ".join(f"{spec.name} {spec}" for spec in inputs),
            found=", ".join(map(str, lengths)),
        )
    return Sample(inputs=tensors, label=_label(label, where))


def _label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    value = np.asarray(label)
    if value.size != 1 or value.dtype.kind not in "iu":
        found = f"{value.dtype} {list(value.shape)}"
        raise DataMismatchError("a label is not one integer", where=where, expected="an int", found=found)
    return int(value.item())


def _fitted(value: Any, spec: TensorSpec, where: str) -> torch.Tensor:
    """Return one input as a contiguous tensor with its batch axis, or say why it does not fit."""
    import torch

    if not isinstance(value, torch.Tensor):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf" and array.dtype.kind != "c":
            found = f"{type(value).__name__} of {array.dtype}"
            raise DataMismatchError(
                f"the input {spec.name!r} is not a numeric array",
                where=where,
                expected=str(spec),
                found=found,
            )
        value = torch.from_numpy(np.array(array, order="C"))  # a copy: the file's memory may be read-only
    tensor: torch.Tensor = value.detach().cpu()
    if tensor.dim() == len(spec.shape) - 1:
        tensor = tensor.unsqueeze(0)
    dtype = str(tensor.dtype).removeprefix("torch.")
    # Where any batch size will do, a sample is still a batch of 1: goldens and limits count samples.
    others = [size for size in spec.dynamic if size.axis == 0 and size.name != BATCH]
    expected = tuple(
        1 if (axis, size) == (0, None) and not others else size for axis, size in enumerate(spec.shape)
    )
    matches = [size in (None, actual) for size, actual in zip(expected, tensor.shape, strict=False)]
    same_rank = tensor.dim() == len(expected)
    fits = same_rank and all(matches)
    outside = [size for size in spec.dynamic if fits and not size.admits(tensor.shape[size.axis])]
    if not fits or outside or dtype != spec.dtype:
        hint = f"convert it to {spec.dtype}" if fits and not outside else None
        if same_rank and not fits and all(matches[1:]):
            hint = "give one sample at a time, not a batch"
        if outside:
            hint = f"leave such samples out, or build with other bounds of {outside[0].name!r}"
        raise DataMismatchError(
            f"the input {spec.name!r} does not fit the model",
            where=where,
            expected=str(spec),
            found=f"{dtype} {list(tensor.shape)}",
            hint=hint,
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        raise NotFiniteDataError(
            f"the input {spec.name!r} holds NaN or infinity",
            where=where,
            found=f"{count} of {tensor.numel()} elements",
        )
    return tensor.contiguous()
