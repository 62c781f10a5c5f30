"""Confining a decoder process, before it opens its file.

Runs only in decoder processes (`composition.media.decoding.worker`), while they have one thread.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from composition.media.confinement import landlock, seccomp
from composition.media.confinement.libc import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, set_attribute
from composition.media.confinement.privileges import become_nobody, drop_capabilities, hand_over
from composition.media.confinement.status import ConfinementPolicy, require_confinement
from services.errors import ConfigError


def take_input(path: str, policy: ConfinementPolicy) -> str:
    """Return the path under which the confined process opens its input. Raises ConfigError if it cannot be confined.

    If another user decodes, it is a copy of the file. Folders, which only callers on this machine can name, are not
    copied, and are read as the user of the server.
    """
    confinement = require_confinement(policy)
    if confinement.user is None or not Path(path).is_file():
        return path
    try:
        return hand_over(path)
    except OSError as error:
        raise ConfigError(f"the decoder process could not be given a copy of its file: {error}") from error


def confine(path: str, packages: Sequence[str], policy: ConfinementPolicy) -> None:
    """Confine this process to its input, for good.

    It can then open no other file, except to read `packages`, and no socket; it can run no program, start no process,
    and touch no other one. Threads work as before.

    Args:
        path: the input, as `take_input` returned it.
        packages: folders of libraries that are imported later.
        policy: whether all of that is required.

    Raises:
        ConfigError: the kernel refuses.
    """
    confinement = require_confinement(policy)
    try:
        set_attribute(PR_SET_NO_NEW_PRIVS, 1)
        if confinement.landlock:
            links = landlock.list_links(path) if Path(path).is_dir() else []
            readable = [path, *links, *packages]
            drop_capabilities(readable)
            landlock.restrict_files(readable)
        elif confinement.user is not None and path.startswith("/proc/self/fd/"):
            become_nobody()
        elif os.geteuid() == 0:
            drop_capabilities([path])
        if confinement.seccomp:
            seccomp.restrict_calls()
        else:  # other decoders may not read its memory. The prepared process can no longer lower its session's priority
            set_attribute(PR_SET_DUMPABLE, 0)
    except OSError as error:
        raise ConfigError(f"the decoder process could not be confined: {error}") from error
