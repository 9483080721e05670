"""Calibration and evaluation data: known by its digest, and read only where a stage must run on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from edgecompile.cache import digest
from edgecompile.dataset import NOISE, Dataset, TensorSpec, load_dataset
from edgecompile.recording import recording
from edgecompile.stage_cache import Entry, Result, ResultChangedError, StageCache
from edgecompile.stages.reads import forget, remember, remembered, tools

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
        known = {"digest": dataset_digest(data), "key": digest(own_key, reads.to_json())}
        if reads.unseen:
            cache.progress.note(f"{spec} is read anew in every build: {reads.unseen}")
        else:
            remember(cache, own_key, reads, known)
        return Result(_entry(known, spec), None, data)

    def load() -> Dataset:
        data = load_dataset(spec, inputs)
        if dataset_digest(data) != known["digest"]:
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


def dataset_digest(data: Dataset) -> str:
    """Return a hash of all samples and labels."""
    found = hashlib.sha256()
    for sample in data.samples:
        found.update(repr(sample.label).encode())
        for tensor in sample.inputs:
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def _entry(known: dict[str, str], spec: str) -> Entry:
    return Entry(stage=_STAGE, key=known["key"], digest=known["digest"], size_bytes=0, summary={"spec": spec})
