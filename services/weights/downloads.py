"""Downloads from any hub: references, progress, locks between processes, and checks of the disk space."""

import errno
import fcntl
import logging
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.filesize import decimal

from services.errors import ConfigError

log = logging.getLogger("ray.serve.reelgraph.weights")

PARAM = "weights.repository"

Listing = Mapping[str, int]
"""Path of a file in the repository → size in bytes."""

Told = Callable[[int, int], None]
"""Callback for progress: number of downloaded bytes, total number of bytes."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class HubAway(ConfigError):
    """The hub of a repository did not answer."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository at a commit, and the cache folder for its files."""

    repository: str
    revision: str
    """A commit, 40 hexadecimal digits."""
    cache: Path
    endpoint: str | None = None
    """Address of a mirror of the hub."""

    def away(self, what: str) -> "HubAway":
        """Return an error for a hub that does not answer."""
        return HubAway(f"{PARAM}: {self.repository} at {self.revision}: {what}", param=PARAM)

    def failed(self, what: str) -> ConfigError:
        """Return an error whose message names the repository and the commit."""
        return ConfigError(f"{PARAM}: {self.repository} at {self.revision}: {what}", param=PARAM)


class Hub(Protocol):
    """One repository at one commit."""

    folder: Path
    """Folder of the downloaded files; it may not exist yet."""

    def remembered(self) -> Listing | None:
        """Return the cached list of files, or None, without network access."""
        ...

    def listed(self) -> Listing:
        """Return the list of files from the hub. Raises ConfigError."""
        ...

    def admitted(self, file: str) -> None:
        """Raise ConfigError if the hub denies access to a file, although its list of files is public."""
        ...

    def arrived(self, files: Listing) -> int:
        """Return the number of bytes of partial files that a download will resume."""
        ...

    def download(self, files: Listing, meter: "Meter") -> None:
        """Download files. Raises ConfigError."""
        ...


class Meter:
    """Thread-safe counter of downloaded bytes."""

    def __init__(self, total: int, told: Told) -> None:
        self._done, self._total, self._told = 0, total, told
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Add a number of bytes; it is negative if a part is downloaded again."""
        with self._lock:
            self._done += count
            self._told(max(0, min(self._done, self._total)), self._total)


@contextmanager
def alone(lock: Path) -> Generator[None]:
    """Hold a lock between the processes of this machine; log a message if another process holds it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for a download by another process", extra={"lock": lock.name})
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need_room(folder: Path, count: int) -> None:
    """Raise ConfigError if the disk of `folder`, which may not exist yet, has less than `count` bytes free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if count > free:
        raise ConfigError(
            f"{PARAM}: the download needs {decimal(count)}, and {existing} has {decimal(free)} free", param=PARAM
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its chain of causes."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def described(error: BaseException) -> str:
    """Return the reason of a failed download for which the hub sent no error response."""
    for cause in causes(error):
        if (isinstance(cause, OSError) and cause.errno in _FULL) or "No space left" in str(cause):
            return "the disk is full; make room and start again, files that are whole are kept"
        if isinstance(cause, PermissionError):
            return f"{cause.filename} may not be written"
    line = next(iter(str(error).splitlines()), "")
    return f"the hub cannot be reached, or did not give it ({type(error).__name__}: {line[:300]})"
