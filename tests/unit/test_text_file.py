"""Text files: written whole or not at all, wherever the path leads."""

import os

import pytest

from edgecompile.errors import OutputNotWritableError
from edgecompile.text_file import write_text


def test_a_symbolic_link_goes_on_leading_to_its_file(tmp_path):
    real = tmp_path / "real.txt"
    real.write_text("before")
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    write_text(link, "after")
    assert link.is_symlink() and real.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "real.txt"]


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    """As /dev/stdout and /dev/null are not."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR)
    try:
        write_text(pipe, "text")
        assert pipe.is_fifo() and os.read(reader, 100) == b"text"
    finally:
        os.close(reader)


def test_half_a_surrogate_pair_is_no_crash(tmp_path):
    """A path that is not UTF-8 has such names."""
    write_text(tmp_path / "x.txt", "a\udc80b")
    assert (tmp_path / "x.txt").read_text() == "a?b"


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(OutputNotWritableError):
        write_text(tmp_path, "text")
