"""Files that other users of the machine cannot access: REELGRAPH_HOME and its contents."""

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
    """Set the umask so that only the current user can access files that this process and its children create."""
    os.umask(_OTHERS)


def open_home(path: Path, tell: Tell | None = None) -> Path:
    """Return the absolute path of the folder of all state; create it if it is missing, and deny access to other users.

    Args:
        path: the folder; `~` is the user's home folder.
        tell: receives a warning if other users could access the folder until now.

    Raises:
        ConfigError: the folder cannot be created, or the folder or a symbolic link to it belongs to another user.
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
    """Raise ConfigError if the folder, or the symbolic link to it, belongs to another user."""
    for owner in {home.lstat().st_uid, home.stat().st_uid} - {os.geteuid()}:
        whose = f"{_name_of(owner)}, and this is {_name_of(os.geteuid())}"
        raise ConfigError(f"REELGRAPH_HOME: {home} belongs to {whose}; choose a folder that you own", param="home")


def _name_of(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return f"user {user}"


def tighten(top: Path) -> int:
    """Remove the permissions of other users from a folder and its contents; return the number of changed entries.

    Symbolic links are not followed, and entries of other users are skipped.
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
    """Write a file atomically, readable by this user only. Raises OSError."""
    number, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)
