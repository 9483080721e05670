"""Calibration and evaluation data: known by its digest, and read only where a stage must run on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompile.cache import digest
from edgecompile.dataset import NOISE, Dataset, TensorSpec, load_dataset
from edgecompile.dynamic_size import BATCH
from edgecompile.recording import recording
from edgecompile.stage_cache import Entry, Result, ResultChangedError, StageCache
from edgecompile.stages.reads import forget, remember, remembered, tools

if TYPE_CHECKING:
    import torch

_STAGE = "samples"


def samples_of(
    cache: StageCache, spec: str, inputs: tuple[TensorSpec, ...], *, after: str
) -> Result[Dataset]:
    """Return the samples that a DATA argument names.

    Args:
        cache: Remembers what the user's function read.
        spec: The argument.
        inputs: What a sample must hold.
        after: The key of what the user's code gave before. It may have kept what it read then, which is not
            seen to be read again; where that has changed, this function runs again too.

    Raises:
        EdgecompileError: As `load_dataset` does.
    """
    described = json.dumps([dataclasses.asdict(item) for item in inputs])
    own_key = digest("data", str(Path.cwd()), spec, described, after, tools())
    known = remembered(cache, own_key)
    if known is None and cache.planned is not None:
        cache.planned.append((f"read {spec}", False))
        return cache.unknown(_STAGE, own_key)
    if known is None:
        import torch  # noqa: F401  what it reads when it is imported is not the data's

        with recording() as record:
            data = load_dataset(spec, inputs)
        reads = record.reads()
        known = _facts(data, inputs) | {"key": digest(own_key, reads.to_json())}
        if reads.unseen:
            cache.progress.note(f"{spec} is read anew in every build: {reads.unseen}")
        else:
            remember(cache, own_key, reads, known)
        return Result(_entry(known, spec), None, data)

    def load() -> Dataset:
        data = load_dataset(spec, inputs)
        if _facts(data, inputs)["digest"] != known["digest"]:
            forget(cache, own_key)
            raise ResultChangedError(spec)
        return data

    return Result(_entry(known, spec), load)


def noise(inputs: tuple[TensorSpec, ...]) -> Result[Dataset]:
    """Return seeded noise, for a build in float without data."""
    described = json.dumps([dataclasses.asdict(item) for item in inputs])

    def load() -> Dataset:
        from edgecompile.signature import random_dataset

        return random_dataset(inputs)

    found = digest("noise", described, tools())
    return Result(_entry({"digest": found, "key": found}, NOISE), load)


def _facts(data: Dataset, inputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """Return what is known of data without its samples.

    `digest` is a hash of all samples and labels, `samples` has one of each sample's inputs (64 bits: enough
    to tell samples apart), `flat` names the inputs whose elements are equal within every sample, `single` the
    dynamic sizes that all samples have alike.
    """
    found = hashlib.sha256()
    samples = []
    flat = [spec.name for spec in inputs]
    for sample in data.samples:
        own = hashlib.sha256()
        for tensor in sample.inputs:
            own.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            own.update(tensor.contiguous().numpy().tobytes())
        found.update(repr(sample.label).encode())
        found.update(own.digest())
        samples.append(own.hexdigest()[:16])
        flat = [
            spec.name
            for spec, tensor in zip(inputs, sample.inputs, strict=True)
            if spec.name in flat and _is_flat(tensor)
        ]
    return {
        "digest": found.hexdigest(),
        "samples": samples,
        "flat": flat,
        "single": _single_sizes(data, inputs),
    }


def _single_sizes(data: Dataset, inputs: tuple[TensorSpec, ...]) -> list[str]:
    lengths: dict[str, set[int]] = {}
    for sample in data.samples:
        for spec, tensor in zip(inputs, sample.inputs, strict=True):
            for size in spec.dynamic:
                lengths.setdefault(size.name, set()).add(tensor.shape[size.axis])
    return [name for name, found in lengths.items() if len(found) == 1 and name != BATCH]


def _is_flat(tensor: torch.Tensor) -> bool:
    """Tell whether a value that gets a range has elements that could differ and do not."""
    return tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())


def _entry(known: dict[str, Any], spec: str) -> Entry:
    summary = {"spec": spec} | {name: known.get(name, []) for name in ("samples", "flat", "single")}
    return Entry(stage=_STAGE, key=known["key"], digest=known["digest"], size_bytes=0, summary=summary)
