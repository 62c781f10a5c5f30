"""One budget of memory for all decoders of a user on this machine, whichever processes they belong to.

The budget is a file whose bytes stand for units of memory. Who takes a unit locks its byte with an open file
description lock (fcntl(2)), which the kernel releases when the process ends for any reason. Nothing is written to the
file, so nothing in it can be wrong after a crash.
"""

import asyncio
import fcntl
import os
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

from composition.media.limits import MediaLimits
from composition.media.node_memory import RAY_THRESHOLD, NodeMemory, choose_budget, read_node_memory
from services.errors import LimitExceeded, ServiceBusy, ServiceLost

UNIT_BYTES = 8 << 20
"""Memory that one byte of the file stands for."""
LANE = 1 << 24
"""Distance between the bytes of the budget and those of each owner, whose units are locked a second time there."""
GATE = 1 << 62
"""The byte that is locked while units are taken, so that of two processes that want the last ones one gets them."""
OWNER_SHARE = 3, 4
"""The part of the budget that one owner may take, as a fraction."""
POLL_S = 0.05
"""Seconds between two tries to take memory that is not free."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is private, and checked
_open_reservations: "weakref.WeakSet[Reservation]" = weakref.WeakSet()


def format_bytes(size: int) -> str:
    """Return a size for a message, in MiB."""
    return f"{size / (1 << 20):,.0f} MiB"


def find_budget(limits: MediaLimits) -> "MemoryBudget":
    """Return the budget of all decoders of this machine that the settings name."""
    folder = Path(limits.node_memory_folder) if limits.node_memory_folder else None
    threshold = limits.node_memory_threshold
    total = limits.node_memory_bytes or choose_budget(read_node_memory().total, threshold)
    return MemoryBudget(total, limits.node_memory_wait_s, threshold=threshold, folder=folder)


class MemoryBudget:
    """The memory that all decoders of this machine may take together.

    Args:
        total_bytes: the budget, in bytes.
        wait_s: seconds to wait for memory that others have taken.
        threshold: share of all memory from which on Ray kills workers.
        folder: where the file is, by default a folder of this user in shared memory. It is made if it does not exist.
        read_memory: returns the memory of the machine.
    """

    def __init__(
        self,
        total_bytes: int,
        wait_s: float,
        *,
        threshold: float = RAY_THRESHOLD,
        folder: Path | None = None,
        read_memory: Callable[[], NodeMemory] = read_node_memory,
    ) -> None:
        self.total_bytes = total_bytes
        self.wait_s = wait_s
        self._threshold = threshold
        self._folder = folder or SHARED_MEMORY / f"reelgraph-{os.getuid()}"
        self._read_memory = read_memory

    @property
    def units(self) -> int:
        """Number of units."""
        return self.total_bytes // UNIT_BYTES

    @property
    def most_units(self) -> int:
        """Number of units that one owner may take: the rest is kept for others."""
        return self.units * OWNER_SHARE[0] // OWNER_SHARE[1]

    def open_reservation(self, owner: str = "") -> "Reservation":
        """Return a reservation of nothing yet, to be closed. Raises ServiceLost if the file cannot be opened.

        Args:
            owner: for whom; no owner gets more than `most_units`.
        """
        try:
            return Reservation(self, _open_file(self._folder), owner)
        except OSError as error:
            raise ServiceLost(
                f"the budget of memory for decoding cannot be used: {self._folder} (node_memory_folder) must be a "
                "folder of this user that is closed to others"
            ) from error

    def is_room_on_node(self, size: int) -> bool:
        """Whether `size` more bytes can be used without Ray beginning to kill processes."""
        memory = self._read_memory()
        return memory.used + size <= memory.total * self._threshold


class Reservation:
    """A part of a budget. Create it with `MemoryBudget.open_reservation`.

    Args:
        budget: that it is a part of.
        file: descriptor of the file of the budget, opened for this reservation.
        owner: for whom it is.
    """

    def __init__(self, budget: MemoryBudget, file: int, owner: str) -> None:
        self._budget = budget
        self._file = file
        self._lanes = (
            _Lane(file, 0, budget.units),
            _Lane(file, (1 + zlib.crc32(owner.encode())) * LANE, budget.most_units),
        )
        """The units of the budget, and those of the owner."""
        _open_reservations.add(self)

    @property
    def size(self) -> int:
        """Bytes that are taken."""
        return len(self._lanes[0].held) * UNIT_BYTES

    async def resize(self, size: int) -> float:
        """Take memory until at least `size` bytes are taken, or give the rest back. Returns the seconds waited.

        Raises:
            LimitExceeded: `size` is more than the whole budget.
            ServiceBusy: others have taken the memory, and did not give it back in time.
        """
        units = -(-size // UNIT_BYTES)
        if units > self._budget.most_units:
            raise LimitExceeded(
                f"decoding needs {format_bytes(size)} of memory; the limit is "
                f"{format_bytes(self._budget.most_units * UNIT_BYTES)}, three quarters of what all decoders of a "
                "machine may take (node_memory_bytes)"
            )
        started = time.monotonic()
        while not self._try_resize(units):
            if time.monotonic() - started >= self._budget.wait_s:
                raise ServiceBusy(self._explain_wait(size))
            await asyncio.sleep(POLL_S)
        return time.monotonic() - started

    def _explain_wait(self, size: int) -> str:
        wanted = f"decoding needs {format_bytes(size)} of memory, which was not free within {self._budget.wait_s:g} s"
        if not self._budget.is_room_on_node(size - self.size):
            return f"{wanted}: the machine is near the memory from which on Ray ends processes; try again later"
        return (
            f"{wanted}: other files are being decoded, and the limit of all decoders of a machine is "
            f"{format_bytes(self._budget.total_bytes)} (node_memory_bytes), of an owner three quarters; try again later"
        )

    def _try_resize(self, units: int) -> bool:
        """Take or give back units until there are `units`. Returns False, and changes nothing, if they are not free."""
        held = len(self._lanes[0].held)
        if units <= held:
            for lane in self._lanes:
                lane.give_back(units)
            return True
        if not self._budget.is_room_on_node((units - held) * UNIT_BYTES) or not lock_byte(self._file, GATE):
            return False
        is_taken = all(lane.take(units) for lane in self._lanes)
        if not is_taken:
            for lane in self._lanes:
                lane.give_back(held)
        unlock_byte(self._file, GATE)
        return is_taken

    def close(self) -> None:
        """Give everything back. May be called again."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        for lane in self._lanes:
            lane.held.clear()


class _Lane:
    """Bytes of the file of which a reservation locks some.

    Args:
        file: descriptor of the file.
        begin: number of the first byte.
        count: number of bytes.
    """

    def __init__(self, file: int, begin: int, count: int) -> None:
        self._file = file
        self._places = range(begin, begin + count)
        self.held: list[int] = []
        """The bytes that are locked."""

    def take(self, count: int) -> bool:
        """Lock bytes until `count` are. Returns whether there were so many free ones."""
        for place in self._places:
            if len(self.held) >= count:
                break
            if place not in self.held and lock_byte(self._file, place):
                self.held.append(place)
        return len(self.held) >= count

    def give_back(self, kept: int) -> None:
        """Unlock all bytes but the first `kept`."""
        for place in self.held[kept:]:
            unlock_byte(self._file, place)
        del self.held[kept:]


def lock_byte(file: int, place: int) -> bool:
    """Lock a byte of a file for the open file description. Returns False if another one has locked it."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _describe_lock(fcntl.F_WRLCK, place))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock_byte(file: int, place: int) -> None:
    """Unlock a byte of a file."""
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _describe_lock(fcntl.F_UNLCK, place))


def _describe_lock(kind: int, place: int) -> bytes:
    """Return `struct flock` for one byte."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0)


def _open_file(folder: Path) -> int:
    """Return a descriptor of the file of the budget. Raises OSError, also if others could have put it there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(folder / "decoder-memory", flags, 0o600)


def _close_inherited() -> None:
    """In a fork: close what belongs to the process that was forked, which otherwise could not give it back."""
    for reservation in list(_open_reservations):
        reservation.close()


os.register_at_fork(after_in_child=_close_inherited)
