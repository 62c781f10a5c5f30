"""Folders of pictures, which are sent and received as zip archives."""

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from reelgraph.errors import UnexpectedAnswer


def list_folder(folder: Path) -> list[Path]:
    """Return the files in a folder, without hidden files and subfolders. Raises OSError if there are none."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    if not files:
        raise FileNotFoundError(f"the folder {folder} has no files (hidden files are ignored)")
    return files


@contextmanager
def zip_folder(folder: Path) -> Generator[IO[bytes]]:
    """Yield a temporary file with an uncompressed zip archive of the files in a folder. Raises OSError."""
    files = list_folder(folder)
    with tempfile.TemporaryFile() as draft:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for path in files:
                # A name that is not valid text would raise an error.
                archive.write(path, os.fsencode(path.name).decode("utf-8", "replace"))
        draft.flush()
        yield draft


@contextmanager
def make_draft_folder(folder: Path) -> Generator[Path]:
    """Create a folder if necessary, and yield a hidden temporary folder in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".reel-") as draft:
        yield Path(draft)


def unzip_folder(archive: Path, folder: Path, pattern: re.Pattern[str]) -> None:
    """Extract a zip archive that a server sent: all of its files, or none if there is an error.

    Args:
        archive: the archive, alone in a temporary folder on the same file system as `folder`.
        folder: the folder for the files; existing files with other names are kept.
        pattern: matches the whole names of the files to extract; it must not match names that lead out of the folder.

    Raises:
        UnexpectedAnswer: it is not a zip archive, it is damaged, or no name matches.
    """
    draft = archive.parent / "whole"
    draft.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if pattern.fullmatch(name)]
            for name in names:
                with opened.open(name) as source, (draft / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it is encrypted
        raise UnexpectedAnswer(f"the zip archive for {folder} cannot be read: {error}") from error
    if not names:
        raise UnexpectedAnswer(f"the zip archive for {folder} has no pictures")
    for path in draft.iterdir():
        path.replace(folder / path.name)
