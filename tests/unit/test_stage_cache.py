"""Results are kept, checked when they are read, shared by processes, and removed when they are too many."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

from edgecompile import cache_upkeep
from edgecompile.progress import QuietProgress
from edgecompile.stage_cache import ResultChangedError, StageCache


class Text:
    """Keeps a text."""

    name = "text"

    def write(self, value, file):
        file.write(value.encode())
        return {"length": len(value)}

    def read(self, path, summary):
        return path.read_text()

    def can_keep(self, value):
        return "unkeepable" not in value


class Notes(QuietProgress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGECOMPILE_CACHE", str(tmp_path))
    return tmp_path / "stages"


def opened(folder):
    return StageCache(folder, Notes())


def never():
    raise AssertionError("it is in the cache")


def test_what_is_not_written_is_made_when_it_is_asked_for(folder):
    cache, made = opened(folder), []
    ask = {"make": lambda: made.append("once") or "hello", "size_bytes": 5}
    first = cache.unwritten("text", "k1", **ask)
    second = cache.unwritten("text", "k1", **ask)
    assert made == [] and not list(folder.rglob("*"))
    assert first.value() == second.value() == "hello" and made == ["once"]
    first.drop()
    assert second.value() == "hello" and made == ["once", "once"]
    assert (first.digest, first.is_new) == ("k1", False) and not list(folder.rglob("*"))


def test_a_result_is_made_once(folder):
    made = opened(folder).result(Text(), "k1", lambda: "hello")
    again = opened(folder).result(Text(), "k1", never)
    assert made.is_new and not again.is_new
    assert (again.value(), again.digest, again.summary) == ("hello", made.digest, {"length": 5})
    assert opened(folder).result(Text(), "k2", lambda: "hello").digest == made.digest
    assert sorted(path.suffix for path in (folder / "text").iterdir()) == [".data", ".data", ".json", ".json"]


@pytest.mark.parametrize("suffix", [".json", ".data"])
@pytest.mark.parametrize("damage", [b"", b"hell", b"\x00" * 5, b"[1]", b"{}", b"\xff\xfe", None])
def test_a_damaged_result_is_made_again_with_a_note(folder, suffix, damage):
    opened(folder).result(Text(), "k", lambda: "hello")
    file = folder / "text" / f"k{suffix}"
    if damage is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(damage)
    cache = opened(folder)
    assert cache.result(Text(), "k", lambda: "hello").value() == "hello"
    assert any("made again" in note for note in cache.progress.notes)


def test_a_header_of_another_schema_or_with_a_changed_fact_is_not_believed(folder):
    opened(folder).result(Text(), "k", lambda: "hello")
    header = folder / "text" / "k.json"
    document = json.loads(header.read_text())
    for change in ({"summary": {"length": 6}}, {"schema_version": 2}, {"digest": "0" * 64}):
        header.write_text(json.dumps(document | change))
        assert opened(folder).find("text", "k") is None
        assert not header.exists()


def test_a_result_that_is_another_one_now_is_told(folder):
    opened(folder).result(Text(), "k", lambda: "hello")
    (folder / "text" / "k.data").write_bytes(b"broken")
    with pytest.raises(ResultChangedError):
        opened(folder).result(Text(), "k", lambda: "other").value()
    assert opened(folder).result(Text(), "k", never).value() == "other"


def test_what_cannot_be_read_back_is_not_kept_nor_dropped(folder):
    made = opened(folder).result(Text(), "k", lambda: "unkeepable")
    made.drop()
    assert made.value() == "unkeepable" and opened(folder).find("text", "k") is None


def test_a_dropped_result_is_read_again(folder):
    made = opened(folder).result(Text(), "k", lambda: "hello")
    made.drop()
    assert made.value() == "hello"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    check_unwritable(folder)


def test_a_cache_where_a_file_is_in_the_way(folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("mine")
    check_unwritable(folder)


def check_unwritable(folder):
    cache = opened(folder)
    assert cache.result(Text(), "k1", lambda: "one").value() == "one"
    assert cache.result(Text(), "k2", lambda: "two").value() == "two"
    cache.put("facts", "k3", {})
    assert len([note for note in cache.progress.notes if "goes on without it" in note]) == 1


def test_two_that_need_the_same_make_it_once(folder):
    made = []

    def make():
        made.append(1)
        time.sleep(0.3)
        return "hello"

    threads = [threading.Thread(target=lambda: opened(folder).result(Text(), "k", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert {path.suffix for path in (folder / "text").iterdir()} == {".json", ".data"}


WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_stage_cache import Text, opened
class Dies(Text):
    def write(self, value, file):
        file.write(b"half")
        file._file.flush()
        os.kill(os.getpid(), 9)
opened(Path(sys.argv[1])).result(Dies(), "k", lambda: "hello")
"""


def test_what_a_killed_writer_leaves_is_swept_and_never_believed(folder):
    command = [sys.executable, "-c", WRITER, str(folder), os.path.dirname(__file__)]  # noqa: PTH120
    assert subprocess.run(command, check=False).returncode == -9
    assert {path.suffix for path in (folder / "text").iterdir()} == {".lock", ".partial"}
    cache_upkeep.sweep()
    assert list((folder / "text").iterdir()) == []
    (folder / "text" / "orphan.data").write_text("no header")
    cache_upkeep.sweep()
    assert list((folder / "text").iterdir()) == []
    assert opened(folder).result(Text(), "k", lambda: "hello").value() == "hello"


def test_what_a_living_writer_holds_is_not_swept(folder):
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "k.1.partial").write_text("half")
    with FileLock(folder / "text" / "k.lock"):
        cache_upkeep.sweep()
        assert (folder / "text" / "k.1.partial").exists()
    cache_upkeep.sweep()
    assert list((folder / "text").iterdir()) == []


def test_the_least_recently_used_goes_first(folder, monkeypatch):
    cache = opened(folder)
    for name in ("a", "b", "c"):
        cache.result(Text(), name, lambda: "x" * 1000)
    for age, name in ((30, "a"), (20, "b"), (10, "c")):
        os.utime(folder / "text" / f"{name}.json", (time.time() - age,) * 2)
    assert opened(folder).find("text", "a") is not None  # used just now
    monkeypatch.setenv("EDGECOMPILE_CACHE_LIMIT_GB", "0.0000030")
    assert cache_upkeep.trim() > 0
    assert sorted(path.stem for path in (folder / "text").glob("*.json")) == ["a", "c"]
    monkeypatch.setenv("EDGECOMPILE_CACHE_LIMIT_GB", "no number")
    assert cache_upkeep.trim() == 0 and cache_upkeep.limit_bytes() == 10e9


def test_a_runner_that_was_found_a_moment_ago_is_not_removed(folder, monkeypatch):
    runner = folder.parent / "runners" / "one"
    runner.mkdir(parents=True)
    (runner / "program").write_bytes(b"x" * 5000)
    monkeypatch.setenv("EDGECOMPILE_CACHE_LIMIT_GB", "0")
    cache_upkeep.trim()
    assert runner.exists()
    os.utime(runner, (time.time() - 7200,) * 2)
    cache_upkeep.trim()
    assert not runner.exists()


def test_clear(folder):
    opened(folder).result(Text(), "k", lambda: "hello")
    assert cache_upkeep.clear() > 0
    assert list(cache_upkeep.items()) == [] and cache_upkeep.clear() == 0
