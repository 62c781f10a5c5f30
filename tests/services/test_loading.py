"""Loading states of models: written by the process that loads, read by the one that waits."""

import stat
from pathlib import Path

import pytest

from services.loading import Loading, list_loading, write_loading


def test_what_is_written_is_read(tmp_path: Path) -> None:
    wan, flux = Loading("wan-a14b", "loading", "fetching 3 of 12 GB", at=5.0), Loading("flux", "ready", at=6.0)
    for one in (wan, flux):
        write_loading(tmp_path, one)
    assert list_loading(tmp_path) == [flux, wan]
    assert list_loading(tmp_path, since=6.0) == [flux]


def test_the_last_word_counts(tmp_path: Path) -> None:
    for state in ("loading", "failed", "ready"):
        write_loading(tmp_path, Loading("wan", state))
    assert [one.state for one in list_loading(tmp_path)] == ["ready"]


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    write_loading(tmp_path, Loading("wan", "loading"))
    (file,) = (tmp_path / "loading").iterdir()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]


def test_an_id_is_a_file_whatever_it_is(tmp_path: Path) -> None:
    write_loading(tmp_path, Loading("../up/é", "loading"))
    assert [one.model for one in list_loading(tmp_path)] == ["../up/é"]
    assert [path.name for path in tmp_path.iterdir()] == ["loading"]


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    assert list_loading(tmp_path) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": "a", "state": "asleep", "at": 1}', '{"model": "a", "state": []}']
)
def test_what_says_something_else_is_left_out(tmp_path: Path, text: str) -> None:
    write_loading(tmp_path, Loading("wan", "ready"))
    (tmp_path / "loading" / "other.json").write_text(text)
    assert [one.model for one in list_loading(tmp_path)] == ["wan"]
