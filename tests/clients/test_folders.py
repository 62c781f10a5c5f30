"""Folders as zips, and zips as folders."""

import os
import re
import zipfile
from pathlib import Path

import pytest

from reelgraph.errors import UnexpectedAnswer
from reelgraph.folders import make_draft_folder, unzip_folder, zip_folder
from tests.clients.stories import zip_files

PNG = re.compile(r"[0-9]+\.png")


def names_in(folder: Path) -> list[str]:
    with zip_folder(folder) as file, zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_files_are_packed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.png").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "b.png").write_bytes(b"b" * 100_000)
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with zip_folder(tmp_path) as file, zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["a.png", "b.png"]
        assert archive.read("a.png") == archive.read("b.png") == b"b" * 100_000


def test_a_file_from_before_zips_is_packed(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.utime(tmp_path / "a.png", (0, 0))
    assert names_in(tmp_path) == ["a.png"]


def test_a_name_that_is_no_text_is_packed(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"1-\xff.png")  # noqa: PTH118 (pathlib has no bytes)
    os.close(os.open(name, os.O_CREAT))
    assert names_in(tmp_path) == ["1-\ufffd.png"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(FileNotFoundError, match=r"has no files .*hidden files are ignored"):
        names_in(tmp_path)


def test_frames_that_come_replace_those_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "much" / "deeper"
    with make_draft_folder(folder) as draft:
        (folder / "1.png").write_bytes(b"old")
        (draft / "in.zip").write_bytes(zip_files({"1.png": b"one", "2.png": b"two", "notes.txt": b"notes"}))
        unzip_folder(draft / "in.zip", folder, PNG)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"1.png": b"one", "2.png": b"two"}


def test_a_zip_with_a_password_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_files({"1.png": b"one"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # says that the entry is encrypted
    with make_draft_folder(tmp_path) as draft:
        (draft / "in.zip").write_bytes(data)
        with pytest.raises(UnexpectedAnswer, match="cannot be read"):
            unzip_folder(draft / "in.zip", tmp_path, PNG)
    assert list(tmp_path.iterdir()) == []
