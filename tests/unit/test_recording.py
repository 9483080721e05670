"""What a function reads is seen, and every change of it is noticed: a stale result would be the worst bug."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.reads import Reads, installed_packages, own_sources
from edgecompile.recording import recording


def reads_of(function):
    with recording() as record:
        function()
    return record.reads()


def test_nothing_read_is_unchanged():
    found = reads_of(lambda: None)
    assert found.unseen == "" and found.unchanged()


def test_an_edit_that_keeps_size_and_time_is_noticed(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"one")
    found = reads_of(file.read_bytes)
    assert found.unchanged() and str(file) in found.files
    times = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not found.unchanged()
    file.write_bytes(b"one")
    assert found.unchanged()


def test_a_file_that_appears_is_noticed(tmp_path):
    file = tmp_path / "finetuned.pt"
    for question in (file.exists, file.is_file, lambda: try_open(file)):
        found = reads_of(question)
        assert found.unchanged()
        file.write_text("weights")
        assert not found.unchanged()
        file.unlink()
        assert found.unchanged()


def try_open(file):
    with contextlib.suppress(FileNotFoundError):
        file.open()


def test_a_link_that_points_elsewhere_is_noticed(tmp_path):
    link = tmp_path / "current"
    for name in ("one", "two"):
        (tmp_path / name).write_text("the same")
    link.symlink_to("one")
    found = reads_of(lambda: link.resolve().read_text())
    assert found.unchanged() and found.links == {str(link): "one"}
    link.unlink()
    link.symlink_to("two")
    assert not found.unchanged()


def test_a_file_that_goes_is_noticed(tmp_path):
    file = tmp_path / "optional.json"
    file.write_text("{}")
    found = reads_of(file.exists)
    assert found.unchanged()
    file.unlink()
    assert not found.unchanged()


@pytest.mark.parametrize(
    "listing", [os.listdir, lambda path: list(os.scandir(path)), lambda path: [*path.glob("*")]]
)
def test_a_new_entry_of_a_listed_folder_is_noticed(tmp_path, listing):
    (tmp_path / "a.jpg").write_text("a")
    found = reads_of(lambda: listing(tmp_path))
    assert found.unchanged()
    (tmp_path / "b.jpg").write_text("b")
    assert not found.unchanged()


def test_a_listed_file_that_native_code_reads_is_noticed_by_its_size(tmp_path):
    (tmp_path / "a.jpg").write_text("a")
    found = reads_of(lambda: list(tmp_path.iterdir()))
    (tmp_path / "a.jpg").write_text("longer")
    assert not found.unchanged()


def test_a_variable_is_noticed(monkeypatch):
    monkeypatch.delenv("WIDTH_OF_TEST", raising=False)
    absent = reads_of(lambda: os.environ.get("WIDTH_OF_TEST"))
    assert absent.unchanged()
    monkeypatch.setenv("WIDTH_OF_TEST", "2")
    assert not absent.unchanged()
    present = reads_of(lambda: os.getenv("WIDTH_OF_TEST"))
    monkeypatch.setenv("UNREAD_OF_TEST", "1")
    assert present.unchanged()
    assert len(present.environment["WIDTH_OF_TEST"]) == 64  # a hash: the value may be a secret


def test_a_relative_path_is_of_the_folder_at_that_moment(tmp_path, monkeypatch):
    (tmp_path / "data.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    found = reads_of(Path("data.txt").read_text)
    monkeypatch.chdir("/")
    assert found.unchanged() and str(tmp_path / "data.txt") in found.files


def test_what_the_function_writes_is_read_next_time(tmp_path):
    file = tmp_path / "trained.bin"
    found = reads_of(lambda: file.exists() or file.write_text("weights"))
    assert found.unchanged()
    file.unlink()
    assert not found.unchanged()


def test_a_temporary_file_is_not_waited_for(tmp_path):
    def work():
        file = tmp_path / "scratch"
        file.write_text("x")
        file.unlink()

    assert reads_of(work).unchanged()


def test_the_sources_of_the_users_modules_are_noticed(tmp_path, monkeypatch):
    helper = tmp_path / "helper_of_test.py"
    helper.write_text("WIDTH = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = reads_of(lambda: __import__("helper_of_test"))
    assert found.unchanged() and str(helper) in found.files
    helper.write_text("WIDTH = 2\n")
    assert not found.unchanged()
    del sys.modules["helper_of_test"]


def test_all_threads_are_seen_and_recordings_nest(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with recording() as outer:
        with recording() as inner:
            thread = threading.Thread(target=file.read_text)
            thread.start()
            thread.join()
        (tmp_path / "other").exists()
    assert str(file) in inner.reads().files and str(file) in outer.reads().files
    assert str(tmp_path / "other") not in inner.reads().presence


def test_hooks_end_with_the_recording_also_after_an_error():
    before = os.stat, os.environ.__class__
    with pytest.raises(ZeroDivisionError), recording():
        assert (os.stat, os.environ.__class__) != before
        raise ZeroDivisionError
    assert (os.stat, os.environ.__class__) == before


def connect():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda: subprocess.run(["true"], check=True), "another process"),
        (fork, "another process"),
        (connect, "the network"),
    ],
)
def test_what_is_not_seen_is_not_trusted(function, said):
    found = reads_of(function)
    assert said in found.unseen and not found.unchanged()


def test_a_package_that_opens_files_natively_is_not_trusted(tmp_path, monkeypatch):
    """A real extension module under a name that nobody knows."""
    source = Path(np.__file__).parent / "_core"
    library = next(source.glob("_struct_ufunc_tests*.so"))
    (tmp_path / library.name).write_bytes(library.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    found = reads_of(lambda: __import__("_struct_ufunc_tests"))
    assert "_struct_ufunc_tests" in found.unseen
    del sys.modules["_struct_ufunc_tests"]
    assert reads_of(lambda: None).unseen == ""


def test_what_cython_shares_within_a_trusted_package_is_trusted():
    import scipy._cyutility  # noqa: F401

    assert "_cyutility" in sys.modules
    assert reads_of(lambda: None).unseen == ""


def test_a_file_that_changes_while_it_is_read_is_not_trusted(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")

    def work():
        with file.open() as opened:
            os.utime(file, ns=(1, 1))
            opened.read()

    assert "changed while it was read" in reads_of(work).unseen


def test_torchs_own_readers_are_seen(tmp_path):
    import torch

    weights, program = tmp_path / "weights.pt", tmp_path / "program.pt2"
    torch.save({"w": torch.ones(3)}, weights)
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), program)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "raw").write_bytes(b"12345678")
    readers = {
        "weights.pt": lambda path: torch.load(path, mmap=True),
        "program.pt2": torch.export.load,
        "script.pt": torch.jit.load,
        "array.npy": lambda path: np.load(path, mmap_mode="r"),
        "raw": np.fromfile,
    }
    for name, read in readers.items():
        found = reads_of(lambda read=read, name=name: read(str(tmp_path / name)))
        assert str(tmp_path / name) in found.files, name
        assert found.unseen == "", name


BUILD_IMPORTS = """
import sys
import edgecompile.compile, edgecompile.capture, edgecompile.quantize.static_int8, edgecompile.evaluate
from edgecompile import catalogue
for package in ("edgecompile.emitters", "edgecompile.engines"):
    for name in catalogue.names(package):
        catalogue.load(package, name)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
import PIL.Image
from edgecompile.recording import recording
with recording() as record:
    pass
print("unseen:", record.reads().unseen)
"""


def test_what_a_build_itself_imports_is_trusted():
    done = subprocess.run([sys.executable, "-c", BUILD_IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "unseen: "


def test_two_processes_record_the_same(tmp_path):
    (tmp_path / "model.py").write_text(
        "import os, torch\n"
        "def make():\n"
        "    os.listdir(os.path.dirname(__file__))\n"
        "    return torch.nn.Linear(2, 2), (torch.ones(1, 2),)\n"
    )
    script = (
        "import sys; sys.dont_write_bytecode = True\n"
        "from edgecompile.capture import capture, load_model\n"
        "from edgecompile.recording import recording\n"
        "with recording() as record:\n"
        "    capture(load_model(sys.argv[1]), dynamic_batch=False)\n"
        "print(record.reads().to_json())\n"
    )
    command = [sys.executable, "-c", script, f"{tmp_path}/model.py:make"]
    texts = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert Reads.from_json(texts[0]).unseen == "" and Reads.from_json(texts[0]).unchanged()


def test_json_round_trip(tmp_path):
    (tmp_path / "file").write_text("x")
    found = reads_of((tmp_path / "file").read_text)
    assert Reads.from_json(found.to_json()) == found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(JSON)
def test_other_json_is_no_record(document):
    with pytest.raises(ValueError):
        Reads.from_json(json.dumps(document))
    parts = {"files": document, "folders": {}, "presence": {}, "links": {}, "environment": {}, "unseen": 1}
    with pytest.raises(ValueError):
        Reads.from_json(json.dumps(parts))


def test_digests_of_code_are_those_of_this_process():
    assert installed_packages() == installed_packages() and own_sources() == own_sources()
    assert len(installed_packages()) == len(own_sources()) == 64
