"""Signed manifests: valid in each format, broken by one changed byte, and saying how the file was made."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from c2pa import C2paError  # pyright: ignore[reportMissingTypeStubs]

from composition.media.marks.label_reading import read_labels
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MARKS_OFF, MarksSettings
from composition.media.marks.vocabulary import GENERATED, GENERATION, MarkedFormat
from services.errors import ModelFailed, StorageFailed
from tests.composition.media.marks import generated
from tests.composition.media.marks.samples import (
    FORMATS,
    MADE,
    get_active,
    get_assertion,
    list_failures,
    read_store,
    write_file,
    write_large_mp4,
)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", FORMATS)
async def test_each_format_is_valid_and_trusted_by_those_who_trust_the_installation(
    form: MarkedFormat, tmp_path: Path
) -> None:
    path = write_file(tmp_path, form)
    plain = path.read_bytes()
    marker = Marker(MarksSettings(), tmp_path / "state")
    in_memory = await marker.mark_bytes(plain, form, MADE)
    await marker.mark_file(path, form, MADE)
    anchor = (tmp_path / "state" / "marks" / "root-certificate.pem").read_text()
    for data in (in_memory, path.read_bytes()):
        store = read_store(data, form)
        assert store["validation_state"] == "Valid"
        assert list_failures(store) == ["signingCredential.untrusted"]
        assert get_active(store)["signature_info"]["issuer"] == "Self-made certificate, untrusted"
        assert read_store(data, form, anchor)["validation_state"] == "Trusted"
    assert list_names(tmp_path) == [path.name, "state"]


@pytest.mark.parametrize("form", FORMATS)
async def test_one_changed_byte_is_found(form: MarkedFormat, tmp_path: Path) -> None:
    plain = write_file(tmp_path, form).read_bytes()
    data = await Marker(MarksSettings(), tmp_path).mark_bytes(plain, form, MADE)
    places = [place for place in range(12, len(data), 61) if place not in find_uncovered(data, form)]
    assert len(places) * 61 > len(plain) * 0.9
    assert [place for place in places if is_valid(change_byte(data, place), form)] == []


def find_uncovered(data: bytes, form: MarkedFormat) -> range:
    """Return the bytes that the hash of the file leaves out: the manifest itself, and in mp4 what is before it."""
    start = data.index(b"jumb") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    end = start + size + size // 200 + 16  # GIF has a length before every 255 bytes, PNG a checksum at the end
    return range(0 if form == "mp4" else start - 48, end)


def change_byte(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def is_valid(data: bytes, form: MarkedFormat) -> bool:
    try:
        return read_store(data, form)["validation_state"] == "Valid"
    except C2paError:  # the file is no longer one of its format
        return False


async def test_the_manifest_says_how_the_file_was_made(tmp_path: Path) -> None:
    path = write_file(tmp_path, "mp4")
    await Marker(MarksSettings(provider="Example Ltd"), tmp_path).mark_file(path, "mp4", MADE)
    store = read_store(path, "mp4")
    (action,) = get_assertion(store, "c2pa.actions.v2")["actions"]
    assert action == {
        "action": "c2pa.created",
        "when": "2026-11-30T12:30:15Z",
        "softwareAgent": {"name": "reelgraph", "version": version("reelgraph")},
        "digitalSourceType": GENERATED,
        "description": "Made by reelgraph, v2v, with flux, wan",
    }
    assert get_assertion(store, GENERATION) == {
        "contentId": "video_1/video",
        "provider": "Example Ltd",
        "system": "reelgraph",
        "version": version("reelgraph"),
        "createdAt": "2026-11-30T12:30:15Z",
        "task": "v2v",
        "stages": ["restyle", "animate"],
        "models": [
            {
                "stage": "restyle",
                "model": "flux",
                "source": "black-forest-labs/FLUX.1-Kontext-dev",
                "revision": "a" * 40,
            },
            {"stage": "animate", "model": "wan", "source": "path:wan", "revision": "b" * 40},
        ],
        "loras": [{"name": "ink", "sha256": "c" * 64}],
        "seed": 2**63 - 1,
    }
    assert b"a red fox" not in path.read_bytes()


async def test_prompts_are_written_by_setting_only(tmp_path: Path) -> None:
    path = write_file(tmp_path, "png")
    await Marker(MarksSettings(prompts=True), tmp_path).mark_file(path, "png", MADE)
    assert get_assertion(read_store(path, "png"), GENERATION)["prompts"] == {"prompt": "a red fox"}


@pytest.mark.parametrize("form", FORMATS)
async def test_with_marks_off_a_file_stays_as_it_is(form: MarkedFormat, tmp_path: Path) -> None:
    path = write_file(tmp_path, form)
    plain = path.read_bytes()
    marker = Marker(MARKS_OFF, tmp_path)
    await marker.mark_file(path, form, MADE)
    assert path.read_bytes() == plain
    assert await marker.mark_bytes(plain, form, MADE) == plain
    assert list_names(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", generated.KINDS)
async def test_every_kind_of_file_is_valid_with_its_labels(kind: str, tmp_path: Path) -> None:
    path = generated.write_file(kind, tmp_path)
    form = generated.form_of(kind)
    await Marker(MarksSettings(), tmp_path).mark_file(path, form, generated.PROVENANCE)
    assert read_store(path, form)["validation_state"] == "Valid"
    labels = read_labels(path)
    assert labels["source_type"] == GENERATED
    assert "aigc" in labels
    changed = path.read_bytes().replace(b"trainedAlgorithmicMedia", b"trainedAlgorithmicMedio", 1)
    assert read_store(changed, form)["validation_state"] == "Invalid", "the signature covers the labels"


async def test_labels_without_a_signature_and_a_signature_without_labels(tmp_path: Path) -> None:
    plain = write_file(tmp_path, "jpeg").read_bytes()
    labelled = await Marker(MarksSettings(c2pa=False), tmp_path).mark_bytes(plain, "jpeg", MADE)
    assert b"c2pa" not in labelled
    assert b"<x:xmpmeta" in labelled
    signed = await Marker(MarksSettings(source_type=False, aigc=False), tmp_path).mark_bytes(plain, "jpeg", MADE)
    assert b"<x:xmpmeta" not in signed
    assert read_store(signed, "jpeg")["validation_state"] == "Valid"


SIGN_LARGE = """
import asyncio, resource, sys
from pathlib import Path
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MarksSettings
from tests.composition.media.marks import generated
from tests.composition.media.marks.samples import MADE, write_file
large, folder = map(Path, sys.argv[1:])
marker = Marker(MarksSettings(), folder)
asyncio.run(marker.mark_file(write_file(folder, "mp4"), "mp4", MADE))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
asyncio.run(marker.mark_file(large, "mp4", MADE))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_mp4_is_not_read_into_memory_and_valid(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    size = 192 << 20
    path = write_large_mp4(tmp_path, size)
    command = [sys.executable, "-c", SIGN_LARGE, str(path), str(tmp_path / "other")]
    used_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert used_kib < 64 << 10
    assert read_store(path, "mp4")["validation_state"] == "Valid"
    with path.open("r+b") as file:
        file.seek(size // 2)
        (value,) = file.read(1)
        file.seek(size // 2)
        file.write(bytes([value ^ 1]))
    assert read_store(path, "mp4")["validation_state"] == "Invalid"


async def test_files_are_signed_at_the_same_time(tmp_path: Path) -> None:
    marker = Marker(MarksSettings(), tmp_path)
    plain = write_file(tmp_path, "jpeg").read_bytes()
    made = [replace(MADE, content_id=f"video_{number}/video") for number in range(40)]
    files = await asyncio.gather(*(marker.mark_bytes(plain, "jpeg", provenance) for provenance in made))
    stores = [read_store(data, "jpeg") for data in files]
    assert {store["validation_state"] for store in stores} == {"Valid"}
    assert [get_active(store)["title"] for store in stores] == [provenance.content_id for provenance in made]
    assert len({store["active_manifest"] for store in stores}) == len(made)


async def test_a_file_that_is_labelled_and_cannot_be_signed_stays_as_it_was(tmp_path: Path) -> None:
    path = write_file(tmp_path, "png")
    plain = path.read_bytes()
    (tmp_path / "marks").write_bytes(b"")  # where the key is to be made
    with pytest.raises(StorageFailed, match="the signing key"):
        await Marker(MarksSettings(), tmp_path).mark_file(path, "png", MADE)
    assert path.read_bytes() == plain
    assert list_names(tmp_path) == [path.name, "marks"]


async def test_a_file_that_is_no_picture_cannot_be_signed(tmp_path: Path) -> None:
    path = tmp_path / "made.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ModelFailed, match="the finished png cannot be labelled"):
        await Marker(MarksSettings(), tmp_path).mark_file(path, "png", MADE)
    with pytest.raises(ModelFailed, match="could not be signed"):
        await Marker(MarksSettings(source_type=False, aigc=False), tmp_path).mark_file(path, "png", MADE)
    assert path.read_bytes() == b"no picture"
    assert list_names(tmp_path) == ["made.png", "marks"]


async def test_a_missing_file_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        await Marker(MarksSettings(), tmp_path).mark_file(tmp_path / "made.png", "png", MADE)
