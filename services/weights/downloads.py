"""What downloads from any hub share: what is wanted, how it is counted, one process at a time, room on the disk."""

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
"""File, by its path in the repository → bytes."""

Told = Callable[[int, int], None]
"""Is told how many bytes have arrived, and of how many."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Reference:
    """What is wanted, and where it is kept."""

    repository: str
    revision: str
    """A commit, 40 hexadecimal digits."""
    cache: Path
    endpoint: str | None = None
    """Another address of the hub."""

    def failed(self, what: str) -> ConfigError:
        """An error that says which weights it is about."""
        return ConfigError(f"{PARAM}: {self.repository} at {self.revision}: {what}", param=PARAM)


class Hub(Protocol):
    """One repository at one commit."""

    folder: Path
    """Where its files lie, or will."""

    def remembered(self) -> Listing | None:
        """Its files, if they have been listed before; asks nobody."""
        ...

    def listed(self) -> Listing:
        """Its files, as the hub tells. Raises ConfigError."""
        ...

    def admitted(self, file: str) -> None:
        """Raise ConfigError where the list is open and the files are not."""
        ...

    def arrived(self, files: Listing) -> int:
        """How many bytes of missing files are here already, and will be taken up."""
        ...

    def download(self, files: Listing, meter: "Meter") -> None:
        """Fetch files. Raises ConfigError."""
        ...


class Meter:
    """Counts bytes that arrive on several threads."""

    def __init__(self, total: int, told: Told) -> None:
        self._done, self._total, self._told = 0, total, told
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count more of them; or fewer, where a part is fetched again."""
        with self._lock:
            self._done += count
            self._told(max(0, min(self._done, self._total)), self._total)


@contextmanager
def alone(lock: Path) -> Generator[None]:
    """Let one process of this machine in at a time; the others wait, and say so."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process makes it ready", extra={"lock": lock.name})
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def need_room(folder: Path, count: int) -> None:
    """Raise ConfigError unless `count` bytes fit on the disk that `folder` is, or will be, on."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if count > free:
        raise ConfigError(
            f"{PARAM}: {decimal(count)} are to be fetched, and {there} has {decimal(free)} free", param=PARAM
        )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def described(error: BaseException) -> str:
    """Say what stopped a download that no hub has refused."""
    for cause in causes(error):
        if (isinstance(cause, OSError) and cause.errno in _FULL) or "No space left" in str(cause):
            return "the disk is full; make room and start again, files that are whole are kept"
        if isinstance(cause, PermissionError):
            return f"{cause.filename} may not be written"
    line = next(iter(str(error).splitlines()), "")
    return f"the hub cannot be reached, or did not give it ({type(error).__name__}: {line[:300]})"
