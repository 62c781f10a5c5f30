"""Loading what decoders need, before they are confined and can read no other file than their input."""

import contextlib
import ctypes
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, cast

MODULES = (
    "av.subtitles.stream",  # PyAV imports it when it opens a file
    "encodings.cp437",  # of names in zip archives
    "glob",
    "PIL.AvifImagePlugin",
    "PIL.ImageCms",
    "PIL.ImageOps",
    "PIL.TiffImagePlugin",
    "PIL.WebPImagePlugin",
    "pi_heif",
)
"""Modules that are imported where they are used, which is too late in a confined process."""
SYSTEM_LIBRARIES = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libz.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
)
"""Libraries of the system that those of decord need."""


def preload_modules() -> None:
    """Import what decoders import later, and load the system's libraries that decord needs."""
    for name in MODULES:
        importlib.import_module(name)
    cast("Any", importlib.import_module("PIL.Image")).preinit()
    for name in SYSTEM_LIBRARIES:
        with contextlib.suppress(OSError):  # the C library has no part of this name
            ctypes.CDLL(name)
    list_packages()


@cache
def list_packages() -> tuple[str, ...]:
    """Return the folders of decord and its libraries, which only the decoders that use it load."""
    spec = importlib.util.find_spec("decord")
    if spec is None or spec.origin is None:
        return ()
    package = Path(spec.origin).parent
    return str(package), *(str(path) for path in package.parent.glob("decord*.libs"))


def load_decord() -> ModuleType:
    """Import decord.

    If the package `nvidia` is installed, decord loads all its CUDA libraries: 3 GB of address space, unused.
    """
    sys.modules.setdefault("nvidia", cast("Any", None))
    return importlib.import_module("decord")
