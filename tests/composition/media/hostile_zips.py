"""Recipes of hostile zip archives, beside the bombs."""

import io
import pickle
import stat
import zipfile
from collections.abc import Sequence

from tests.composition.media.hostile import DAMAGED, EITHER, LARGE, Recipe, png
from tests.composition.media.hostile_references import TARGET, Harmful


def pack_files(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive of files."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return written.getvalue()


def pack_pictures(names: Sequence[str]) -> bytes:
    return pack_files(*((name, png()) for name in names))


def make_entry(name: str, *, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    """Return an entry as written on Unix, with a name as it is."""
    entry = zipfile.ZipInfo("a.png")
    entry.filename, entry.create_system, entry.external_attr = name, 3, (kind | 0o777) << 16
    return entry


def lie_about_directory() -> bytes:
    """Return a zip archive whose directory is as large as 2 GiB, by its end record."""
    data = pack_pictures(["1.png"])
    at = data.rfind(b"PK\5\6") + 12
    return data[:at] + (0x7FFFFFFF).to_bytes(4, "little") + data[at + 4 :]


RECIPES: dict[str, Recipe] = {
    "zip_good": Recipe("zip of two pictures, for comparison", "zip", lambda: pack_pictures(["1", "2"]), ("accepted",)),
    "zip_parent": Recipe(
        "zip with a path that leads out of it (..)", "zip", lambda: pack_pictures(["../../evil.png"]), DAMAGED
    ),
    "zip_absolute": Recipe("zip with an absolute path", "zip", lambda: pack_pictures(["/tmp/evil.png"]), DAMAGED),
    "zip_drive": Recipe("zip with a path with a drive letter", "zip", lambda: pack_pictures(["C:evil.png"]), DAMAGED),
    "zip_backslash": Recipe(
        "zip with a path with backslashes",
        "zip",
        lambda: pack_files((make_entry("x\\..\\evil.png"), png())),
        DAMAGED,
    ),
    "zip_link": Recipe(
        "zip with a symbolic link to /etc/passwd",
        "zip",
        lambda: pack_files((make_entry("link.png", kind=stat.S_IFLNK), TARGET.encode())),
        DAMAGED,
    ),
    "zip_in_zip": Recipe(
        "zip with a zip of pictures", "zip", lambda: pack_files(("a.zip", pack_pictures(["1", "2"]))), DAMAGED
    ),
    "zip_of_210000": Recipe(
        "zip of 210,000 empty files",
        "zip",
        lambda: pack_files(*((f"{n}.png", b"") for n in range(210_000)), method=zipfile.ZIP_STORED),
        EITHER,
    ),
    "zip_directory": Recipe("zip whose directory has 2 GiB by its end record", "zip", lie_about_directory, DAMAGED),
    "zip_name": Recipe(
        "zip with a name that is no UTF-8",
        "zip",
        lambda: pack_files(("ü.png", png())).replace("ü.png".encode(), b"\xff\xfe.png"),
        DAMAGED,
    ),
    "zip_large": Recipe(
        "zip of a PNG of 4096x2304, for comparison", "zip", lambda: pack_files(("1.png", png(*LARGE))), ("accepted",)
    ),
    "zip_pickle": Recipe(
        "zip with a pickle that runs a command when it is loaded, as of PyTorch",
        "zip",
        lambda: pack_files(("archive/data.pkl", pickle.dumps(Harmful())), ("archive/version", b"3\n")),
        DAMAGED,
    ),
}
