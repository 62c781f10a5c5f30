"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from clients.disk import Landing


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    with Landing(target) as landing:
        landing.write(b"abcdef", 0)
        assert not target.exists()
        landing.write(b"CD", 2)
    assert target.read_bytes() == b"abCD"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with Landing(target) as landing:
            landing.write(b"new", 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is not a file"):
        Landing(tmp_path)
    with pytest.raises(FileNotFoundError), Landing(tmp_path / "nowhere" / "out.mp4"):
        pass
