"""The artifact store, on a disk and on S3 (moto's server on loopback)."""

import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from composition.records.artifacts import Artifacts, ArtifactSettings
from services.errors import NotFound, StorageFailed


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(params=["disk", "s3"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Artifacts:
    if request.param == "disk":
        return Artifacts(ArtifactSettings(url=str(tmp_path / "artifacts")))
    endpoint = request.getfixturevalue("s3")
    login = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **login).create_bucket(Bucket="reel")
    options = {"endpoint_url": endpoint, "key": "k", "secret": "s", "use_listings_cache": False}
    return Artifacts(ArtifactSettings(url="s3://reel/state", options=options))


def test_bytes_come_back_whole_and_in_part(artifacts: Artifacts) -> None:
    data = bytes(range(256)) * 9000  # more than two chunks
    artifacts.put("videos/a/1.m4s", data)
    assert artifacts.get_size("videos/a/1.m4s") == len(data)
    assert b"".join(artifacts.read("videos/a/1.m4s")) == data
    assert b"".join(artifacts.read("videos/a/1.m4s", 1_048_570, 1_048_590)) == data[1_048_570:1_048_590]


def test_what_is_not_there_is_not_found(artifacts: Artifacts) -> None:
    with pytest.raises(NotFound):
        artifacts.get_size("videos/none")
    with pytest.raises(NotFound):
        list(artifacts.read("videos/none"))
    artifacts.remove("videos/none")


def test_bytes_that_cannot_be_stored_leave_no_draft(tmp_path: Path) -> None:
    artifacts = Artifacts(ArtifactSettings(url=str(tmp_path)))
    artifacts.put("files", b"a file where a folder is needed")
    with pytest.raises(StorageFailed):
        artifacts.put("files/f", b"film")
    assert list((tmp_path / ".drafts").iterdir()) == []


def test_a_file_is_moved_in_and_its_draft_is_gone(artifacts: Artifacts) -> None:
    draft = artifacts.create_draft()
    draft.write_bytes(b"film")
    artifacts.put_file("files/f", draft)
    assert not draft.exists()
    assert b"".join(artifacts.read("files/f")) == b"film"


def test_a_prefix_is_removed_with_all_below_it(artifacts: Artifacts) -> None:
    for key in ("videos/a/1", "videos/a/2", "videos/ab/1"):
        artifacts.put(key, b"x")
    artifacts.remove("videos/a")
    assert b"".join(artifacts.read("videos/ab/1")) == b"x"
    with pytest.raises(NotFound):
        artifacts.get_size("videos/a/1")


async def test_a_url_opens_as_a_local_file(artifacts: Artifacts) -> None:
    artifacts.put("files/f", b"film")
    async with artifacts.open_local(artifacts.get_url("files/f")) as path:
        assert path.read_bytes() == b"film"
    with pytest.raises(NotFound):
        async with artifacts.open_local(artifacts.get_url("files/none")):
            pass


def test_a_full_or_closed_disk_is_our_error(tmp_path: Path) -> None:
    artifacts = Artifacts(ArtifactSettings(url=str(tmp_path)))
    (tmp_path / "videos").write_bytes(b"a file where a folder should be")
    with pytest.raises(StorageFailed, match="writing to the artifact store failed"):
        artifacts.put("videos/a", b"x")


def test_a_new_file_never_replaces_one_that_is_there(artifacts: Artifacts) -> None:
    for content in (b"first", b"second"):
        draft = artifacts.create_draft()
        draft.write_bytes(content)
        artifacts.put_new_file("videos/b/formats/video.gif", draft)
        assert not draft.exists()
    assert b"".join(artifacts.read("videos/b/formats/video.gif")) == b"first"


def test_a_tag_changes_with_the_content(artifacts: Artifacts) -> None:
    artifacts.put("videos/c/a", b"first")
    first = artifacts.get_tag("videos/c/a")
    assert artifacts.get_tag("videos/c/a") == first
    artifacts.put("videos/c/a", b"other")
    assert artifacts.get_tag("videos/c/a") != first
    with pytest.raises(NotFound):
        artifacts.get_tag("videos/c/none")
