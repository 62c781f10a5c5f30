"""File permissions of REELGRAPH_HOME."""

import os
import pwd
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.errors import ConfigError
from services.private import open_home, write_private

NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_is_closed(tmp_path: Path) -> None:
    told: list[str] = []
    home = open_home(tmp_path / "a" / "home", told.append)
    assert (mode(home), told) == (0o700, [])


def test_a_home_below_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_home(Path("~/films")) == tmp_path / "films"


def test_an_open_home_is_closed_and_all_in_it_and_it_is_said_once(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    (home / "artifacts").mkdir(parents=True)
    (home / "reelgraph.db").touch()
    (home / "artifacts" / "a.mp4").touch()
    outside.touch()
    (home / "link").symlink_to(outside)
    for path in (home, home / "artifacts"):
        path.chmod(0o755)
    for path in (home / "reelgraph.db", home / "artifacts" / "a.mp4", outside):
        path.chmod(0o644)
    told: list[str] = []
    open_home(home, told.append)
    assert (mode(home), mode(home / "artifacts")) == (0o700, 0o700)
    assert (mode(home / "reelgraph.db"), mode(home / "artifacts" / "a.mp4")) == (0o600, 0o600)
    assert mode(outside) == 0o644, "links are not followed"
    assert told == [f"{home}: other users could read it (mode 755); closed it, and 3 files in it"]
    open_home(home, told.append)
    assert len(told) == 1


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that belongs to another user."""
    if os.geteuid() != 0:
        return Path("/usr")
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, NOBODY, NOBODY)
    return folder


@pytest.mark.parametrize("linked", [False, True])
def test_a_home_of_somebody_else_is_refused(tmp_path: Path, theirs: Path, linked: bool) -> None:
    home = tmp_path / "link" if linked else theirs
    if linked:
        home.symlink_to(theirs)
    owner, user = (pwd.getpwuid(one).pw_name for one in (theirs.stat().st_uid, os.geteuid()))
    refusal = f"REELGRAPH_HOME: {home} belongs to {owner}, and this is {user}; choose a folder that you own"
    with pytest.raises(ConfigError, match=f"^{re.escape(refusal)}$"):
        open_home(home)
    assert mode(theirs) == 0o755, "it is left as it is"


def test_a_link_of_one_s_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    assert open_home(tmp_path / "home") == tmp_path / "home"


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(ConfigError, match="File exists"):
        open_home(tmp_path / "home")


def test_a_private_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_private(path, "one")
    assert (path.read_text(), mode(path)) == ("one", 0o600)
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "half a character: \ud800")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("one", [path])


def test_what_a_private_process_writes_is_closed(tmp_path: Path) -> None:
    code = "import pathlib, services.private as p; p.be_private(); pathlib.Path('a').touch(); pathlib.Path('b').mkdir()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (0o600, 0o700)
