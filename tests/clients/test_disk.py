"""Files that are sent, and files that appear whole or not at all."""

import resource
from pathlib import Path

import psutil
import pytest

from reelgraph.disk import AtomicFile, OpenParts
from reelgraph.wire import Part


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with AtomicFile(target) as file:
        file.write(b"abcdef", 0)
        assert not target.exists()
        file.write(b"CD", 2)
    assert target.read_bytes() == b"abCD"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with AtomicFile(target) as file:
            file.write(b"new", 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is not a file"):
        AtomicFile(tmp_path)
    with pytest.raises(FileNotFoundError), AtomicFile(tmp_path / "nowhere" / "out.mp4"):
        pass


def is_open(path: Path) -> bool:
    return str(path) in {file.path for file in psutil.Process().open_files()}


def test_more_files_are_sent_than_may_be_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(300)]
    for path in paths:
        path.write_text(path.name)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with OpenParts([Part("edge_frames", path) for path in paths], None) as sent:
            read = {name: b"".join(iter(lambda: file.read(4), b"")) for _, (name, file) in sent}  # noqa: B023
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read == {path.name: path.name.encode() for path in paths}


def test_a_file_that_is_sent_is_not_left_open(tmp_path: Path) -> None:
    path = tmp_path / "in.mp4"
    path.write_bytes(b"abcdef")
    with OpenParts([Part("file", path)], None) as [(_, (_, file))]:
        assert file.seek(0, 2) == 6
        assert file.seek(1) == file.tell() == 1
        assert file.read(2) == b"bc"
        assert is_open(path)
    assert not is_open(path)
