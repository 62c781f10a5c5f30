"""Replicas that died because memory ran out, told in words. Ray tells it in the raylet's log, a page for each time."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_EVENT = re.compile(
    r"Memory on the node \([^)]*\) was (?P<used>[\d.]+)GB used / (?P<limit>[\d.]+)GB limit"
    r".*?\nConsidered workers: \[\n(?P<workers>.*?)\n\]\n",
    re.DOTALL,
)
_VICTIM = re.compile(
    r"^Selected to kill: .*task name=(?P<task>[^,]*),.*actual memory used=(?P<own>[\d.]+)GB", re.MULTILINE
)
_REPLICA = re.compile(r"SERVE_REPLICA::(?P<application>[^#]*)#(?P<deployment>[^#]*)#")
_AGAIN_S = 60.0
_PARTS = {"SERVE_CONTROLLER_ACTOR": "Serve's controller", "SERVE_PROXY_ACTOR": "Serve's proxy"}


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that Ray ended so that the others could live."""

    name: str
    """Its deployment's, where it was a replica."""
    gigabytes: float


@dataclass(frozen=True, slots=True)
class Shortage:
    """Memory ran out, and Ray ended processes."""

    used: float
    """Of the machine, or the container: GB."""
    limit: float
    victims: tuple[Victim, ...]
    """The largest first."""

    def __str__(self) -> str:
        ended = ", ".join(f"{victim.name} ({victim.gigabytes:g} GB)" for victim in self.victims)
        return (
            f"memory ran out: {self.used:g} of {self.limit:g} GB were in use, and Ray ended {ended}. That starts again "
            "by itself, and what it did is tried again; if this goes on, serve fewer models (--only) or give the "
            "machine more memory"
        )


def parse_shortages(log: str) -> tuple[list[Shortage], str]:
    """Read what a raylet has logged; return also the end of it that may be the beginning of another one."""
    found, end = list[Shortage](), 0
    for event in _EVENT.finditer(log):
        victims = [Victim(_name_of(one["task"]), float(one["own"])) for one in _VICTIM.finditer(event["workers"])]
        victims.sort(key=lambda victim: -victim.gigabytes)
        found.append(Shortage(float(event["used"]), float(event["limit"]), tuple(victims)))
        end = event.end()
    begun = log.find("Memory on the node (", end)
    return found, log[begun:] if begun >= 0 else ""


def _name_of(task: str) -> str:
    if replica := _REPLICA.match(task):
        return replica["deployment"]
    return next((name for beginning, name in _PARTS.items() if task.startswith(beginning)), task)


class MemoryAlarm:
    """Follows the log of a raylet.

    Args:
        logs: the folder of Ray's logs. There is none where Ray runs elsewhere; then nothing is found.
        clock: seconds.
    """

    def __init__(self, logs: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = logs / "raylet.out"
        self._clock = clock
        self._read = 0
        self._rest = ""
        self._told: dict[frozenset[str], float] = {}

    def list_new(self) -> list[Shortage]:
        """What has happened since the last call; where the same processes end again and again, once a minute."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return []
        self._read += len(new)
        found, self._rest = parse_shortages(self._rest + new.decode(errors="replace"))
        return [shortage for shortage in found if self._is_news(shortage)]

    def _is_news(self, shortage: Shortage) -> bool:
        names, now = frozenset(victim.name for victim in shortage.victims), self._clock()
        if not names or now - self._told.get(names, -_AGAIN_S) < _AGAIN_S:
            return False
        self._told[names] = now
        return True
