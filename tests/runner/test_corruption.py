"""210 seeded corruptions through the real runners: each ends cleanly, whatever the engine makes of it."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from edgecompile.connections.host import Host
from edgecompile.errors import AlteredFileError, EdgecompileError, EngineFailedError, RunnerFailedError
from edgecompile.run_artifact import run_artifact

pytestmark = pytest.mark.usefixtures("host_tools")

FORMATS = ["pte", "onnx", "ptl"]
SEEDS = 5


def _span(choose: random.Random, size: int) -> tuple[int, int]:
    """Return the begin and end of a range that is not empty: short, or up to a quarter of the file."""
    length = choose.choice([1, 16, 256, size // 16, size // 4])
    begin = choose.randrange(size - length)
    return begin, begin + length


def _flipped(choose: random.Random, data: bytes, begin: int, end: int, count: int) -> bytes:
    damaged = bytearray(data)
    for position in choose.sample(range(begin, end), count):
        damaged[position] ^= 1 << choose.randrange(8)
    return bytes(damaged)


def _cut(choose: random.Random, data: bytes) -> bytes:
    return data[: choose.randrange(len(data) // 2, len(data))]


def _cut_short(choose: random.Random, data: bytes) -> bytes:
    return data[: choose.randrange(1, 200)]


def _beheaded(choose: random.Random, data: bytes) -> bytes:
    return data[choose.randrange(1, len(data) // 2) :]


def _flip_in_header(choose: random.Random, data: bytes) -> bytes:
    return _flipped(choose, data, 0, 64, choose.choice([1, 4]))


def _flip_in_middle(choose: random.Random, data: bytes) -> bytes:
    return _flipped(choose, data, 64, len(data) - 512, choose.choice([1, 4]))


def _flip_in_tail(choose: random.Random, data: bytes) -> bytes:
    return _flipped(choose, data, len(data) - 512, len(data), choose.choice([1, 4]))


def _flip_everywhere(choose: random.Random, data: bytes) -> bytes:
    return _flipped(choose, data, 0, len(data), 256)


def _overwritten(choose: random.Random, data: bytes) -> bytes:
    begin, end = _span(choose, len(data))
    return data[:begin] + choose.randbytes(end - begin) + data[end:]


def _zeroed(choose: random.Random, data: bytes) -> bytes:
    begin, end = _span(choose, len(data))
    return data[:begin] + bytes(end - begin) + data[end:]


def _all_ones(choose: random.Random, data: bytes) -> bytes:
    begin, end = _span(choose, len(data))
    return data[:begin] + b"\xff" * (end - begin) + data[end:]


def _duplicated(choose: random.Random, data: bytes) -> bytes:
    begin, end = _span(choose, len(data))
    return data[:end] + data[begin:]


def _removed(choose: random.Random, data: bytes) -> bytes:
    begin, end = _span(choose, len(data))
    return data[:begin] + data[end:]


def _swapped(choose: random.Random, data: bytes) -> bytes:
    first, middle, last = sorted(choose.sample(range(len(data)), 3))
    return data[:first] + data[middle:last] + data[first:middle] + data[last:]


def _something_else(choose: random.Random, data: bytes) -> bytes:
    whole = [b"", b"no artifact at all\n" * 40, b"\x89PNG\r\n\x1a\n" + bytes(500), b"PK\x05\x06" + bytes(18)]
    return choose.choice([*whole, choose.randbytes(len(data))])


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    _cut,
    _cut_short,
    _beheaded,
    _flip_in_header,
    _flip_in_middle,
    _flip_in_tail,
    _flip_everywhere,
    _overwritten,
    _zeroed,
    _all_ones,
    _duplicated,
    _removed,
    _swapped,
    _something_else,
]


def _corruptions(data: bytes) -> list[tuple[str, bytes]]:
    """Return 70 damaged files, each with the words that name it in a failure; none is the original."""
    made = []
    for damage in DAMAGES:
        for seed in range(SEEDS):
            choose = random.Random(f"{damage.__name__}{seed}")
            damaged = damage(choose, data)
            while damaged == data:  # zeros were overwritten by zeros
                damaged = damage(choose, data)
            made.append((f"{damage.__name__} {seed}", damaged))
    return made


def _outcome(item) -> str:
    """Run an artifact; return how it ended, which is in one of three ways."""
    host = Host()
    try:
        with host:
            found = run_artifact(
                item.path,
                item.sha256,
                item.samples[:1],
                host,
                engine=item.engine,
                warmup=0,
                iterations=0,
                timeout_seconds=60,
            )
    except EngineFailedError as error:
        return _checked(error, "refused")
    except RunnerFailedError as error:
        assert "killed by SIG" in error.message  # nothing else than the engine may fail
        return _checked(error, "crash")
    finally:
        left = subprocess.run(["pgrep", "-f", str(host.folder)], capture_output=True, check=False)
        assert not left.stdout
        assert not host.folder.exists()
    ((output,),) = found.outputs
    assert output.shape == (1, 10)
    return "ran"


def _checked(error: EdgecompileError, outcome: str) -> str:
    assert error.exit_status == 6
    assert error.lines["where"].endswith(" on host")
    return outcome


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_corruption_ends_cleanly(made, tmp_path, suffix):
    """With the hash of the damaged file, so that the engine itself meets it."""
    item = made[f"int8.{suffix}"]
    file = tmp_path / f"damaged.{suffix}"
    outcomes: Counter[str] = Counter()
    for words, damaged in _corruptions(item.path.read_bytes()):
        file.write_bytes(damaged)
        try:
            outcome = _outcome(replace(item, path=file))
        except BaseException as error:
            error.add_note(f"corruption: {words}")
            raise
        outcomes[outcome] += 1
    assert outcomes.total() == len(DAMAGES) * SEEDS
    assert outcomes["refused"] > outcomes["crash"]
    assert outcomes["ran"]  # only weights were hit, which nothing but the hash can tell


@pytest.mark.parametrize("suffix", FORMATS)
def test_with_the_manifests_hash_corruptions_are_refused(made, tmp_path, suffix):
    item = made[f"int8.{suffix}"]
    file = tmp_path / f"damaged.{suffix}"
    corruptions = _corruptions(item.path.read_bytes())
    for words, damaged in corruptions[::SEEDS]:  # one of each kind
        file.write_bytes(damaged)
        with Host() as host, pytest.raises(AlteredFileError, match="SHA-256") as error:
            run_artifact(file, item.sha256, item.samples[:1], host, engine=item.engine)
        assert error.value.lines["where"] == f"damaged.{suffix} on host", words
