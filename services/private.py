"""Files that nobody else on the machine can read: REELGRAPH_HOME and all that lies in it."""

import os
import pwd
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from services.errors import ConfigError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

Tell = Callable[[str], None]


def be_private() -> None:
    """Let whatever this process writes from now on, and what it starts, be readable by its user alone."""
    os.umask(_OTHERS)


def open_home(path: Path, tell: Tell | None = None) -> Path:
    """Return the folder of all state, made where it is missing, absolute, and closed to other users.

    Args:
        path: the folder; `~` is the user's own.
        tell: is given a sentence where other users could read an existing folder until now.

    Raises:
        ConfigError: it cannot be made, or it is another user's, or a link to another user's.
    """
    home = path.expanduser().absolute()
    try:
        home.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        _need_own(home)
        mode = stat.S_IMODE(home.stat().st_mode)
        if mode & _OTHERS:
            count = tighten(home)
            if tell:
                tell(f"{home}: other users could read it (mode {mode:o}); closed it, and {count - 1} files in it")
    except OSError as error:
        raise ConfigError(f"REELGRAPH_HOME: {home}: {error.strerror}", param="home") from error
    return home


def _need_own(home: Path) -> None:
    """Raise ConfigError unless the folder is this user's, and the link to it too, where it is one."""
    for owner in {home.lstat().st_uid, home.stat().st_uid} - {os.geteuid()}:
        whose = f"{_name_of(owner)}, and this is {_name_of(os.geteuid())}"
        raise ConfigError(f"REELGRAPH_HOME: {home} belongs to {whose}; name a folder of your own", param="home")


def _name_of(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"user {user}"


def tighten(top: Path) -> int:
    """Take all rights of other users away from a folder and what lies in it; return how many were changed.

    Links are not followed, and what belongs to other users is left.
    """
    changed = _close(top)
    for folder, folders, files in os.walk(top):
        changed += sum(_close(Path(folder, name)) for name in (*folders, *files))
    return changed


def _close(path: Path) -> bool:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & _OTHERS:
        return False
    with suppress(PermissionError):
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
        return True
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all. Raises OSError."""
    number, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
