"""Marks as other programs see them: ExifTool and ffprobe show them, and ffmpeg decodes what it did before."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from composition.media.marks.marker import Marker
from composition.media.marks.settings import MARKS_OFF, MarksSettings
from composition.media.marks.vocabulary import GENERATED
from tests.composition.media.marks.generated import KINDS, PROVENANCE, VIDEOS, form_of, write_file

NEEDED = "this test needs ExifTool, ffmpeg and ffprobe; scripts/browser installs them or prints how to"
SETTINGS = MarksSettings(provider="Example")
LABEL = {
    "Label": "1",
    "ContentProducer": "Example",
    "ProduceID": PROVENANCE.content_id,
    "ReservedCode1": "",
    "ContentPropagator": "",
    "PropagateID": "",
    "ReservedCode2": "",
}


NOT_BY_FFMPEG = ("animated webp", "animated png")
"""ffmpeg has no decoder of the first, and takes the second for a still behind the 13 kB of a manifest. No output is one."""


def run(*command: str | Path) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.fail(NEEDED)
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def read_tags(path: Path) -> dict[str, Any]:
    """Return the tags that ExifTool shows, with the group of each."""
    (tags,) = json.loads(run("exiftool", "-j", "-G1", "-a", "-struct", path))
    return tags


def hash_frames(path: Path) -> str:
    """Return the hash of each frame, with its time, as ffmpeg decodes them."""
    return run("ffmpeg", "-v", "error", "-i", path, "-f", "framemd5", "-")


async def write_marked(kind: str, folder: Path, settings: MarksSettings = SETTINGS) -> Path:
    path = write_file(kind, folder)
    await Marker(settings, folder).mark_file(path, form_of(kind), PROVENANCE)
    return path


@pytest.mark.parametrize("kind", KINDS)
async def test_exiftool_shows_the_source_type_and_the_implicit_label(kind: str, tmp_path: Path) -> None:
    tags = read_tags(await write_marked(kind, tmp_path))
    assert tags["XMP-iptcExt:DigitalSourceType"] == GENERATED
    assert tags["XMP-photoshop:Credit"] == "Example"
    assert tags["XMP-xmpMM:DocumentID"] == PROVENANCE.content_id
    assert tags["XMP-xmp:CreateDate"] == "2026:08:02 12:30:15+00:00"
    (label,) = [value for name, value in tags.items() if name.lower() == "xmp-tc260:aigc"]
    assert json.loads(label) == LABEL
    if kind in VIDEOS:
        assert json.loads(tags["Keys:AIGC"]) == LABEL
    assert [name for name in tags if name.endswith((":Warning", ":Error"))] == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "gif", "mp4"])
async def test_with_marks_off_there_is_nothing(kind: str, tmp_path: Path) -> None:
    tags = read_tags(await write_marked(kind, tmp_path, MARKS_OFF))
    assert [name for name in tags if name.startswith(("XMP", "Keys", "JUMBF", "CBOR"))] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_BY_FFMPEG])
async def test_ffmpeg_decodes_the_same_frames(kind: str, tmp_path: Path) -> None:
    before = hash_frames(write_file(kind, tmp_path))
    assert hash_frames(await write_marked(kind, tmp_path)) == before


@pytest.mark.parametrize("kind", VIDEOS)
async def test_ffprobe_shows_the_implicit_label_and_what_there_was(kind: str, tmp_path: Path) -> None:
    path = await write_marked(kind, tmp_path)
    tags = json.loads(run("ffprobe", "-v", "error", "-of", "json", "-show_format", path))["format"]["tags"]
    assert json.loads(tags["AIGC"]) == LABEL
    assert tags["comment"] == "kept"
