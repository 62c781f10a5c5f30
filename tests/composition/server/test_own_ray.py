"""Choosing a cluster, checking its address and token, and the folder for Ray's files."""

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from composition.server.own_ray import (
    MAX_SOCKET_PATH,
    choose_cluster,
    create_private_folder,
    find_home,
    has_socket_room,
    join_ray,
    require_token_auth,
    rescue_logs,
)
from services.errors import ConfigError


@pytest.mark.parametrize(
    ("option", "variable", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("local", "10.0.0.1:6379", None),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("10.0.0.2:6379", "local", "10.0.0.2:6379"),
    ],
)
def test_which_cluster(
    option: str | None, variable: str | None, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert choose_cluster(option) == address


def test_it_does_not_start_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for mode in ("token", "Token"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        require_token_auth()
    monkeypatch.delenv("RAY_AUTH_MODE")
    require_token_auth()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(
        ConfigError, match=r"^RAY_AUTH_MODE: must be token or unset, got disabled; without a token, anyone"
    ):
        require_token_auth()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://a:10001", "must be HOST:PORT of the cluster's head; Ray Client addresses (ray://) are not supported"),
        ("nonsense", "must be HOST:PORT"),
        ("here:there", "must be HOST:PORT"),
        ("127.0.0.1:1", "[Errno 111] Connection refused"),
    ],
)
def test_a_cluster_that_is_not_there(address: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught, join_ray(address):
        pass
    assert caught.value.message == f"address: {address}: {words}"


@pytest.mark.parametrize("homes", [[None], ["/b"], [None, "/b"], ["/b", "/c"]])
def test_the_home_of_several_applications(homes: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELGRAPH_HOME", "/a")
    applications = [
        {"name": f"app-{index}", "route_prefix": None, "import_path": "a:b", "args": {"home": home} if home else {}}
        for index, home in enumerate(homes)
    ]
    config = ServeDeploySchema.model_validate({"applications": applications})
    assert find_home(config) == Path("/b" if "/b" in homes else "/a")


def test_the_default_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REELGRAPH_HOME", raising=False)
    assert find_home(ServeDeploySchema.model_validate({"applications": []})) == Path("~/.reelgraph")


def test_the_longest_folder_in_which_ray_s_sockets_fit() -> None:
    longest = next(
        length for length in range(MAX_SOCKET_PATH, 0, -1) if has_socket_room(Path("/" + "a" * (length - 1)))
    )
    assert longest == 32
    assert has_socket_room(Path("/home/somebody/.reelgraph/ray"))
    assert not has_socket_room(Path("/" + "é" * 20)), "bytes count"


@pytest.fixture
def home() -> Iterator[Path]:
    """A home with a short path: pytest's folders are too deep for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="h", dir="/tmp") as folder:
        yield Path(folder)


def test_a_folder_in_the_home_is_private_and_goes(home: Path) -> None:
    with create_private_folder(home) as folder:
        assert folder.parent == home / "ray"
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder)] == [0o700, 0o700]
        (folder / "t" / "session").mkdir(parents=True)
    assert list((home / "ray").iterdir()) == []


def test_a_home_that_is_too_deep(tmp_path: Path) -> None:
    home = tmp_path / ("a" * 40)
    home.mkdir()
    with create_private_folder(home) as folder:
        assert (folder.parent, folder.name[:5]) == (Path("/tmp"), "reel-")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert has_socket_room(Path("/tmp"))
    assert not folder.exists()
    assert list(home.iterdir()) == []


def test_what_a_killed_server_left_is_removed_and_what_a_living_one_uses_is_not(home: Path) -> None:
    left, foreign = home / "ray" / "left", home / "ray" / "foreign"
    left.mkdir(parents=True)
    (left / "lock").touch()
    foreign.mkdir()  # without a lock, so not created by a server
    with create_private_folder(home) as first, create_private_folder(home) as second:
        assert first != second
        assert {path.name for path in (home / "ray").iterdir()} == {first.name, second.name, "foreign"}


def test_the_logs_of_a_killed_server_are_kept(home: Path) -> None:
    left, logs = home / "ray" / "left" / "t" / "session" / "logs", home / "logs" / "2025-11-30_10-00-00_1"
    for folder in (left, logs):
        folder.mkdir(parents=True)
    (logs / "server.log").touch()
    (left / "raylet.out").write_text("it was so")
    (left / "empty").touch()
    left.chmod(0o777)
    (logs / "ray").symlink_to(left)
    rescue_logs(home)
    assert [path.name for path in (logs / "ray").iterdir()] == ["raylet.out"]
    assert (logs / "ray" / "raylet.out").read_text() == "it was so"
    assert stat.S_IMODE((logs / "ray").lstat().st_mode) == 0o700
    rescue_logs(home)
    assert (logs / "ray" / "raylet.out").exists()
