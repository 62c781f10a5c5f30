"""What this machine has to confine decoder processes with."""

import logging
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from composition.media.confinement import landlock, seccomp
from composition.media.confinement.privileges import NOBODY, can_become_nobody
from services.errors import ConfigError

log = logging.getLogger("ray.serve.reelgraph.media")

ConfinementPolicy: TypeAlias = Literal["available", "required"]
"""Whether decoders are confined as far as the machine can, or files are not decoded if something is missing."""


@dataclass(frozen=True)
class Confinement:
    """What confines the decoder processes of this machine."""

    landlock: int
    """Version of the Landlock interface; 0 if there is none."""
    seccomp: bool
    """Whether a filter of system calls can be set."""
    user: int | None
    """User id of decoders where there is no Landlock; None if they have that of this process."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What the machine lacks, and what follows from it."""
        found: list[str] = []
        if not self.landlock:
            result = "as this process can" if self.user is None else f"that user {self.user} can read"
            found.append(f"no Landlock: decoders can read files {result}")
        if not self.seccomp:
            found.append("no seccomp: decoders can open sockets and make other system calls")
        return tuple(found)

    def describe(self) -> dict[str, Any]:
        """Return the fields of a log line."""
        return {**asdict(self), "missing": list(self.missing)}


@cache
def read_confinement() -> Confinement:
    """Return what confines the decoder processes that this process starts."""
    version = landlock.read_version()
    return Confinement(version, seccomp.is_available(), NOBODY if not version and can_become_nobody() else None)


def require_confinement(policy: ConfinementPolicy) -> Confinement:
    """Return what confines decoders. Raises ConfigError if something is missing that the policy requires."""
    confinement = read_confinement()
    if policy == "required" and confinement.missing:
        raise ConfigError(
            f"media.confinement: is `required`, but this machine has {'; '.join(confinement.missing)}. "
            "Use a kernel that has both, or set `available`.",
            param="media.confinement",
        )
    return confinement


@cache
def report_confinement(policy: ConfinementPolicy) -> None:
    """Log once in this process what confines decoders, and what could not be had. Raises ConfigError as above."""
    confinement = require_confinement(policy)
    facts = confinement.describe()
    if confinement.missing:
        log.warning("decoders are not fully confined", extra=facts)
    else:
        log.info("decoders are confined", extra=facts)
