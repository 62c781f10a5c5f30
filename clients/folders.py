"""Folders of pictures: on the wire they are zips."""

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


def files_in(folder: Path) -> list[Path]:
    """Return the files that lie in a folder itself; hidden ones do not count. Raises OSError where there are none."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    if not files:
        raise FileNotFoundError(f"there are no files in the folder {folder} (hidden ones do not count)")
    return files


@contextmanager
def packed(folder: Path) -> Generator[IO[bytes]]:
    """Yield a temporary file: a zip of the files in a folder, as they are. Raises OSError."""
    files = files_in(folder)
    with tempfile.TemporaryFile() as draft:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
            for path in files:
                # A name that is no text at all would end the writing.
                archive.write(path, os.fsencode(path.name).decode("utf-8", "replace"))
        draft.flush()
        yield draft


@contextmanager
def drafts(folder: Path) -> Generator[Path]:
    """Make sure that there is a folder, and yield a hidden one in it that is gone when the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".reel-") as draft:
        yield Path(draft)


def unpack(archive: Path, folder: Path, form: re.Pattern[str]) -> None:
    """Put the files of a zip that a server sent into a folder, all of them or, when something goes wrong, none.

    Args:
        archive: the zip, in a folder of its own within `folder`'s file system.
        folder: what lies there under other names is left alone.
        form: of a whole name. What is called otherwise is left out, so no name leads out of the folder.

    Raises:
        UnexpectedAnswer: it is no zip, is damaged, or holds nothing of that form.
    """
    whole = archive.parent / "whole"
    whole.mkdir()
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if form.fullmatch(name)]
            for name in names:
                with opened.open(name) as source, (whole / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it wants a password
        raise UnexpectedAnswer(f"the zip for {folder} cannot be read: {error}") from error
    if not names:
        raise UnexpectedAnswer(f"the zip for {folder} holds no picture")
    for path in whole.iterdir():
        path.replace(folder / path.name)
