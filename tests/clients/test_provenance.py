"""Marks of files: both clients, and `reel verify`."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Blocking, Looping, Reel
from typer.testing import CliRunner
from video_server import VideoServer

from composition.media.marks.marker import Marker
from composition.media.marks.settings import MarksSettings
from reelgraph.cli import app
from reelgraph.errors import ApiError
from tests.composition.media.marks.generated import PROVENANCE, write_file

Way = Blocking | Looping

MARKED = """\
{path}: marked as generated
  manifest      intact, but signed by a certificate that is not trusted
  signed by     Somebody\ufffd[31m
  source type   http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
  generator     reelgraph 9.9
  provider      Example
  time          2026-08-02T12:30:15Z
  id            video_1/video
  model         animate: wan, owner/weights abc
  LoRA          ink, SHA-256 cccc
  seed          0
  prompt        prompt: a fox
  actions       c2pa.opened, c2pa.edited
  made from     input_video, video/mp4, parentOf; no C2PA manifest
  made from     photo, image/jpeg; intact, and signed by a trusted certificate, signed by Camera
  labels        not signed, anybody may have changed them
    IPTC        http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia
    system      reelgraph 9.9
    AIGC        Label 1, ContentProducer Example
"""
UNMARKED = """\
{path}: not marked as generated
  manifest      no C2PA manifest
  labels        none
"""


def test_marks_are_read(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    check = way.take(client.content_provenance_checks.create(clip, on_progress=lambda *at: seen.append(at)))
    assert (check.results[0].outcome, check.results[0].validation_state) == ("detected", "valid")
    assert check.manifest.models[0].model == "wan"
    assert check.labels.aigc == {"Label": "1", "ContentProducer": "Example", "ProduceID": ""}
    assert way.take(client.content_provenance_checks.create("file_none")).manifest is None
    assert server.asked == [({}, {"file": clip.read_bytes()}), ({"file": "file_none"}, {})]
    assert seen[-1] == (6000, 6000)


def test_what_is_refused_says_why(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    with pytest.raises(ApiError) as caught:
        way.take(client.content_provenance_checks.create("file_refused"))
    assert (caught.value.status, caught.value.param) == (422, "file")
    with pytest.raises(FileNotFoundError):
        way.take(client.content_provenance_checks.create(clip.with_name("nowhere.png")))
    assert len(server.seen) == 1


def test_a_named_server_reads_the_files(reel: Reel, server: VideoServer, clip: Path) -> None:
    plain = clip.with_name("plain.txt")
    plain.write_text("none")
    result = reel("verify", clip)
    assert (result.exit_code, result.stdout) == (0, MARKED.format(path=clip))
    result = reel("verify", clip, plain)
    assert (result.exit_code, result.stdout) == (1, MARKED.format(path=clip) + UNMARKED.format(path=plain))
    assert server.asked[1:] == [({}, {"file": clip.read_bytes()}), ({}, {"file": b"none"})]


def test_as_json(reel: Reel, clip: Path) -> None:
    result = reel("verify", clip, clip, "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert first == second
    assert (result.exit_code, first["path"], first["object"]) == (0, str(clip), "content_provenance_check")
    assert first["manifest"]["actions"][0]["action"] == "c2pa.opened"


def test_a_checkout_reads_the_files_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REELGRAPH_URL", raising=False)
    marked, changed, plain = write_file("jpeg", tmp_path), tmp_path / "changed.jpg", tmp_path / "-plain.txt"
    plain.write_text("none")
    marked.write_bytes(mark(marked, tmp_path))
    data = marked.read_bytes()
    changed.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    result = CliRunner().invoke(app, ["verify", str(marked), str(changed), str(plain)])
    assert result.exit_code == 1, result.output
    states = [line.strip() for line in result.stdout.splitlines() if line.startswith("  manifest")]
    assert states == [
        "manifest      intact, but signed by a certificate that is not trusted",
        "manifest      NOT INTACT: the file or its manifest was changed after it was signed",
        "manifest      no C2PA manifest",
    ]


def mark(path: Path, state: Path) -> bytes:
    """Return a finished JPEG with its marks."""
    return asyncio.run(Marker(MarksSettings(), state).mark_bytes(path.read_bytes(), "jpeg", PROVENANCE))


@pytest.mark.parametrize("arguments", [(), ("nowhere.png",), (".",)])
def test_a_wrong_command_line(reel: Reel, server: VideoServer, arguments: tuple[str, ...]) -> None:
    assert reel("verify", *arguments).exit_code == 2
    assert server.seen == []
