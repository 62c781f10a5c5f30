"""Reporting processes that Ray killed when memory ran out, as read from the raylet's log."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SHORTAGE = re.compile(
    r"Memory on the node \([^)]*\) was (?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit"
    r".*?\nConsidered workers: \[\n(?P<workers>.*?)\n\]\n",
    re.DOTALL,
)
_VICTIM = re.compile(
    r"^Selected to kill: .*task name=(?P<task>[^,]*),.*actual memory used=(?P<own>[\d.]+)GB", re.MULTILINE
)
_REPLICA = re.compile(r"SERVE_REPLICA::(?P<application>[^#]*)#(?P<deployment>[^#]*)#")
_REPEAT_S = 60.0
_SERVE_ACTORS = {"SERVE_CONTROLLER_ACTOR": "Serve's controller", "SERVE_PROXY_ACTOR": "Serve's proxy"}


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that Ray killed to free memory."""

    name: str
    """Name of the deployment if the process was a replica, else of the task."""
    gigabytes: float
    """Memory that the process used, in GB."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """An event in which memory ran out and Ray killed processes."""

    used_gb: float
    """Memory in use on the machine, or in the container, in GB."""
    limit_gb: float
    """Memory of the machine or the container, in GB."""
    victims: tuple[Victim, ...]
    """The killed processes, largest first."""

    def __str__(self) -> str:
        ended = ", ".join(f"{victim.name} ({victim.gigabytes:g} GB)" for victim in self.victims)
        return (
            f"out of memory: {self.used_gb:g} of {self.limit_gb:g} GB were in use, and Ray killed {ended}. They "
            "are restarted and their work is retried; if this happens again, serve fewer models (--only) or add memory"
        )


def parse_shortages(log: str) -> tuple[list[Shortage], str]:
    """Parse a raylet's log. Return the shortages, and the end of the log if it may be an incomplete one."""
    found, end = list[Shortage](), 0
    for event in _SHORTAGE.finditer(log):
        victims = [
            Victim(_find_process_name(one["task"]), float(one["own"])) for one in _VICTIM.finditer(event["workers"])
        ]
        victims.sort(key=lambda victim: -victim.gigabytes)
        found.append(Shortage(float(event["used"]), float(event["limit"]), tuple(victims)))
        end = event.end()
    begun = log.find("Memory on the node (", end)
    return found, log[begun:] if begun >= 0 else ""


def _find_process_name(task: str) -> str:
    if replica := _REPLICA.match(task):
        return replica["deployment"]
    return next((name for beginning, name in _SERVE_ACTORS.items() if task.startswith(beginning)), task)


class MemoryAlarm:
    """Follows the log of a raylet.

    Args:
        logs: the folder of Ray's logs. It may be missing, as on a cluster; then no shortages are found.
        clock: returns the time in seconds.
    """

    def __init__(self, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = logs / "raylet.out"
        self._clock = clock
        self._offset = 0
        self._unparsed = ""
        self._reported: dict[frozenset[str], float] = {}

    def read_shortages(self) -> list[Shortage]:
        """Return the shortages since the last call. A repeated kill of the same processes counts once a minute."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return []
        self._offset += len(new)
        found, self._unparsed = parse_shortages(self._unparsed + new.decode(errors="replace"))
        return [shortage for shortage in found if self._is_new(shortage)]

    def _is_new(self, shortage: Shortage) -> bool:
        names, now = frozenset(victim.name for victim in shortage.victims), self._clock()
        if not names or now - self._reported.get(names, -_REPEAT_S) < _REPEAT_S:
            return False
        self._reported[names] = now
        return True
