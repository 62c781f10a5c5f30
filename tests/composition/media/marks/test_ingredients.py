"""Files of the user as ingredients, with their own manifests."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from composition.media.marks.ingredients import Room, prepare_ingredients, recognise_media
from composition.media.marks.installation_key import load_installation_key
from composition.media.marks.marker import Marker
from composition.media.marks.provenance import Ingredient
from composition.media.marks.settings import MarksSettings
from composition.media.marks.store_search import CHUNK_BYTES
from composition.media.marks.vocabulary import COMPOSITE, GENERATION, MarkedFormat
from services.errors import StorageFailed
from tests.composition.media.marks.samples import (
    FORMATS,
    MADE,
    get_active,
    get_assertion,
    list_failures,
    make_remote_picture,
    read_store,
    sign_at_once,
    write_file,
    write_large_mp4,
)
from tests.composition.media.own_memory import OWN_MEMORY


@pytest.fixture
def marker(tmp_path: Path) -> Marker:
    return Marker(MarksSettings(), tmp_path / "state")


async def sign_input(marker: Marker, folder: Path, form: MarkedFormat = "jpeg") -> Path:
    """Write a file with a manifest, as a user may send it."""
    path = write_file(folder, form)
    await marker.mark_file(path, form, replace(MADE, content_id="theirs"))
    return path


async def make_from(marker: Marker, folder: Path, inputs: Sequence[Ingredient]) -> dict[str, Any]:
    """Make a picture from files, and return its manifest store."""
    plain = write_file(folder, "png").read_bytes()
    data = await marker.mark_bytes(plain, "png", replace(MADE, ingredients=inputs))
    store = read_store(data, "png")
    assert store["validation_state"] == "Valid"
    assert list_failures(store) == ["signingCredential.untrusted"]
    return store


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", FORMATS)
async def test_the_manifest_of_an_input_is_kept(form: MarkedFormat, marker: Marker, tmp_path: Path) -> None:
    path = await sign_input(marker, tmp_path / "theirs", form)
    theirs = read_store(path, form)["active_manifest"]
    store = await make_from(marker, tmp_path, [Ingredient("input_reference", path)])
    (ingredient,) = get_active(store)["ingredients"]
    assert ingredient["active_manifest"] == theirs
    assert ingredient["relationship"] == "inputTo"
    assert ingredient["title"] == "input_reference"
    assert ingredient["description"] == f"SHA-256 {sha256(path)}"
    codes = [item["code"] for item in ingredient["validation_results"]["activeManifest"]["success"]]
    assert "claimSignature.validated" in codes
    assert store["manifests"][theirs]["title"] == "theirs"
    (action,) = get_assertion(store, "c2pa.actions.v2")["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == COMPOSITE
    (link,) = action["parameters"]["ingredients"]
    assert link["url"].endswith(ingredient["label"])
    (entry,) = get_assertion(store, GENERATION)["inputs"]
    assert entry["manifest"] == "kept"
    assert entry["sha256"] == sha256(path)


async def test_an_edited_file_is_the_parent(marker: Marker, tmp_path: Path) -> None:
    path = await sign_input(marker, tmp_path / "theirs", "mp4")
    style = await sign_input(marker, tmp_path / "style")
    inputs = [Ingredient("style", style), Ingredient("video", path, is_parent=True)]
    store = await make_from(marker, tmp_path, inputs)
    relationships = {item["title"]: item["relationship"] for item in get_active(store)["ingredients"]}
    assert relationships == {"style": "inputTo", "video": "parentOf"}
    opened, edited = get_assertion(store, "c2pa.actions.v2")["actions"]
    assert opened["action"] == "c2pa.opened"
    assert len(opened["parameters"]["ingredients"]) == 1
    assert edited["action"] == "c2pa.edited"
    assert edited["digitalSourceType"] == COMPOSITE
    assert len(edited["parameters"]["ingredients"]) == 1
    assert len(store["manifests"]) == 3


async def test_a_file_without_a_manifest_is_an_ingredient_with_its_hash(marker: Marker, tmp_path: Path) -> None:
    path = write_file(tmp_path, "jpeg")
    other = tmp_path / "unknown"
    other.write_bytes(b"no media file")
    store = await make_from(marker, tmp_path, [Ingredient("image", path), Ingredient("mask", other)])
    image, mask = get_active(store)["ingredients"]
    assert image["format"] == "image/jpeg"
    assert image["description"] == f"SHA-256 {sha256(path)}"
    assert mask["format"] == "application/octet-stream"
    assert "active_manifest" not in image
    assert [entry["manifest"] for entry in get_assertion(store, GENERATION)["inputs"]] == ["none", "none"]


async def test_a_changed_input_is_kept_with_what_was_found(marker: Marker, tmp_path: Path) -> None:
    path = await sign_input(marker, tmp_path / "theirs")
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    store = await make_from(marker, tmp_path, [Ingredient("image", path)])
    (ingredient,) = get_active(store)["ingredients"]
    failures = [item["code"] for item in ingredient["validation_results"]["activeManifest"]["failure"]]
    assert "assertion.dataHash.mismatch" in failures


async def test_a_manifest_that_cannot_be_read_is_left_out(marker: Marker, tmp_path: Path) -> None:
    signed = await sign_input(marker, tmp_path / "theirs", "png")
    path = tmp_path / "truncated.png"
    path.write_bytes(signed.read_bytes()[:4000])
    store = await make_from(marker, tmp_path, [Ingredient("image", path)])
    (entry,) = get_assertion(store, GENERATION)["inputs"]
    assert entry["manifest"] == "unreadable"
    assert entry["sha256"] == sha256(path)
    (ingredient,) = get_active(store)["ingredients"]
    assert ingredient["title"] == "image"
    assert list(store["manifests"]) == [store["active_manifest"]]


async def test_a_remote_manifest_is_not_fetched(marker: Marker, tmp_path: Path) -> None:
    path = tmp_path / "remote.jpg"
    path.write_bytes(make_remote_picture("http://127.0.0.1:9/manifest.c2pa"))
    store = await make_from(marker, tmp_path, [Ingredient("image", path)])
    (ingredient,) = get_active(store)["ingredients"]
    (failure,) = ingredient["validation_results"]["activeManifest"]["failure"]
    assert failure["code"] == "manifest.inaccessible"


async def test_a_name_across_two_chunks_is_found(marker: Marker, tmp_path: Path) -> None:
    path = await sign_input(marker, tmp_path / "theirs")
    data = path.read_bytes()
    end = data.index(b"\xff\xeb")  # APP11, in which JPEG has its manifest
    first = data.index(b"jumb") - end
    comments = b"\xff\xfe\xff\xff" + bytes(65533)
    filler = CHUNK_BYTES - 2 - first - end
    padding = comments * (filler // len(comments)) + b"\xff\xfe" + (filler % len(comments) - 2).to_bytes(2, "big")
    moved = data[:end] + padding + bytes(filler % len(comments) - 4) + data[end:]
    assert moved.index(b"jumb") == CHUNK_BYTES - 2
    path.write_bytes(moved)
    (ingredient,) = await prepare_ingredients(
        [Ingredient("image", path)], OWN_MEMORY, load_installation_key(tmp_path / "state"), None
    )
    assert ingredient.manifest == "kept"


async def test_what_is_too_large_is_left_out(marker: Marker, tmp_path: Path) -> None:
    """Each input was made from the one before, so that its manifests grow."""
    path = await sign_input(marker, tmp_path / "theirs")
    credential = load_installation_key(tmp_path / "state")
    (kept,) = await prepare_ingredients([Ingredient("image", path)], OWN_MEMORY, credential, None)
    assert kept.archive is not None
    room = Room(one=2 * len(kept.archive), total=2 * len(kept.archive) - 500)  # sizes differ by a few bytes
    inputs = [Ingredient("first", path), Ingredient("second", path)]
    first, second = await prepare_ingredients(inputs, OWN_MEMORY, credential, None, room)
    assert (first.manifest, second.manifest) == ("kept", "too large")
    assert second.archive is None


async def test_what_a_decoder_cannot_do_in_time_is_left_out(marker: Marker, tmp_path: Path) -> None:
    path = await sign_input(marker, tmp_path / "theirs")
    credential = load_installation_key(tmp_path / "state")
    limits = OWN_MEMORY.model_copy(update={"deadline_s": 1e-6})
    (ingredient,) = await prepare_ingredients([Ingredient("image", path)], limits, credential, None)
    assert ingredient.manifest == "unreadable"


async def test_a_missing_input_is_an_error_of_storage(marker: Marker, tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="image: the file cannot be read"):
        await make_from(marker, tmp_path, [Ingredient("image", tmp_path / "missing")])


async def test_the_manifest_of_a_large_file_is_kept(marker: Marker, tmp_path: Path) -> None:
    """Its media data are one part that is hashed at once, as other programs do."""
    path = write_large_mp4(tmp_path, 280 << 20)
    credential = load_installation_key(tmp_path)
    sign_at_once(path, credential)
    (ingredient,) = await prepare_ingredients([Ingredient("video", path)], OWN_MEMORY, credential, None)
    assert ingredient.manifest == "kept"


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\0\0\0\x18ftypisom", "video/mp4"),
        (b"\0\0\0\x18ftypavif", "image/avif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"RIFF\0\0\0\0junk", "application/octet-stream"),
        (b"\x1a\x45\xdf\xa3", "video/x-matroska"),
        (b"", "application/octet-stream"),
    ],
)
def test_media_types(head: bytes, mime: str) -> None:
    assert recognise_media(head) == mime
