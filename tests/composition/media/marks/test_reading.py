"""The marks of any file are read in a decoder process: what they say, whether they are intact, and who signed them."""

import asyncio
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from c2pa import Builder, C2paSignerInfo, Context, Signer  # pyright: ignore[reportMissingTypeStubs]

from composition.media.marks.c2pa_settings import make_settings
from composition.media.marks.inspection import read_marks
from composition.media.marks.installation_key import load_installation_key
from composition.media.marks.labels import read_system_version
from composition.media.marks.manifest_reading import MAX_ENTRIES, MAX_TEXT, describe_store
from composition.media.marks.marker import MIME_TYPES, Marker
from composition.media.marks.reading import inspect_marks
from composition.media.marks.report import Manifest, MarkedIngredient, MarksReport
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATED, SOURCE_TYPES
from services.errors import ConfigError, LimitExceeded, UndecodableMedia
from tests.composition.media.marks.generated import COMPOSITE as COMPOSITE_PROVENANCE
from tests.composition.media.marks.generated import KINDS, PROVENANCE, form_of, make_picture, write_file
from tests.composition.media.marks.samples import make_remote_picture
from tests.composition.media.own_memory import OWN_MEMORY

SETTINGS = MarksSettings(provider="Example")
CAMERA = SOURCE_TYPES + "digitalCapture"


async def write_marked(kind: str, folder: Path, settings: MarksSettings = SETTINGS) -> Path:
    """Write a finished file with all marks."""
    path = write_file(kind, folder)
    await Marker(settings, folder).mark_file(path, form_of(kind), PROVENANCE)
    return path


def sign_foreign(data: bytes, folder: Path, definition: dict[str, Any], mime: str = "image/jpeg") -> bytes:
    """Return a file with a manifest of another program, signed by an installation's key."""
    credential = load_installation_key(folder)
    info = C2paSignerInfo(b"es256", credential.chain, credential.key or b"", None)
    signed = BytesIO()
    with (
        Context.from_json(json.dumps({"verify": {"verify_after_sign": False}})) as context,
        Builder({"claim_generator_info": [{"name": "Camera", "version": "7"}], **definition}, context=context) as made,
        Signer.from_info(info) as signer,
    ):
        made.sign(signer, mime, BytesIO(data), signed)
    return signed.getvalue()


def act(source_type: str, action: str = "c2pa.created") -> dict[str, Any]:
    """Return the definition of a manifest with one action."""
    entry = {"action": action, "digitalSourceType": source_type, "when": "2024-05-01T10:00:00+02:00"}
    return {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [entry]}}]}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_finished_file_says_everything(kind: str, tmp_path: Path) -> None:
    path = await write_marked(kind, tmp_path)
    report = await inspect_marks(path, OWN_MEMORY, SETTINGS)
    manifest, labels = report.manifest, report.labels
    assert manifest is not None
    assert labels is not None
    assert (manifest.state, manifest.says_generated) == ("valid", True)
    assert manifest.failures == ["signingCredential.untrusted"]
    assert manifest.digital_source_type == labels.source_type == GENERATED
    assert manifest.generated_at == "2026-08-02T12:30:15Z"
    assert manifest.provider == labels.provider == "Example"
    assert manifest.content_id == labels.content_id == PROVENANCE.content_id
    assert (manifest.task, manifest.seed) == ("v2v", 7)
    assert [use.model_dump() for use in manifest.models] == [vars(PROVENANCE.models[0])]
    assert [action.action for action in manifest.actions] == ["c2pa.created"]
    assert manifest.generator == f"reelgraph {read_system_version()}"
    assert (manifest.ingredients, manifest.prompts) == ([], {})
    assert labels.aigc is not None
    assert labels.aigc["ProduceID"] == PROVENANCE.content_id


async def test_those_who_trust_the_certificate_are_told_so(tmp_path: Path) -> None:
    path = await write_marked("png", tmp_path)
    anchors = tmp_path / "marks" / "root-certificate.pem"
    report = await inspect_marks(path, OWN_MEMORY, MarksSettings(trust_anchors=anchors))
    assert report.manifest is not None
    assert (report.manifest.state, report.manifest.failures) == ("trusted", [])
    with pytest.raises(ConfigError, match=r"marks\.trust_anchors: .*none\.pem"):
        await inspect_marks(path, OWN_MEMORY, MarksSettings(trust_anchors=tmp_path / "none.pem"))


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "gif", "mp4"])
async def test_one_changed_byte_is_found(kind: str, tmp_path: Path) -> None:
    path = await write_marked(kind, tmp_path)
    data = bytearray(path.read_bytes())
    data[-30 if kind != "lossy webp" else data.index(b"VP8 ") + 60] ^= 1  # in the picture
    path.write_bytes(data)
    report = await inspect_marks(path, OWN_MEMORY, SETTINGS)
    assert report.manifest is not None
    assert (report.manifest.state, report.manifest.says_generated) == ("invalid", False)
    assert any("Hash.mismatch" in code for code in report.manifest.failures)
    assert report.labels is not None


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "gif", "mp4"])
async def test_a_damaged_manifest_is_invalid_and_not_absent(kind: str, tmp_path: Path) -> None:
    data = (await write_marked(kind, tmp_path)).read_bytes()
    place = data.index(b"org.reelgraph.generation")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data[:place] + b"x" + data[place + 1 :])
    report = await inspect_marks(damaged, OWN_MEMORY, SETTINGS)
    assert report.manifest is not None
    assert report.manifest.state == "invalid"
    assert report.manifest.failures != []


async def test_half_a_file_with_a_manifest_is_invalid(tmp_path: Path) -> None:
    path = await write_marked("mp4", tmp_path)
    path.write_bytes(path.read_bytes()[:-5000])
    report = await inspect_marks(path, OWN_MEMORY, SETTINGS)
    assert report.manifest is not None
    assert report.manifest.state == "invalid"


OTHERS = {
    "nothing": b"",
    "text": b"a plain text",
    "half a picture": make_picture("jpeg")[:300],
    "half a png": make_picture("png")[:300],
    "a picture": make_picture("lossy webp"),
    "zip": b"PK\3\4" + b"\0" * 100,
    "pdf": b"%PDF-1.7\n" + b"\0" * 100,
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "boxes": b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x10moov\xff\xff\xff\xfftrak",
}


@pytest.mark.parametrize("kind", OTHERS)
async def test_other_files_have_no_marks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(OTHERS[kind])
    assert await inspect_marks(path, OWN_MEMORY, SETTINGS) == MarksReport()


async def test_a_manifest_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    path = tmp_path / "linked.jpg"
    path.write_bytes(make_remote_picture("http://127.0.0.1:9/manifest.c2pa"))
    assert await inspect_marks(path, OWN_MEMORY, SETTINGS) == MarksReport()


WAV = b"RIFF\x28\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\4\0\0\0\0\0\0\0"


async def test_the_manifest_of_a_format_that_is_not_made_here_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(sign_foreign(WAV, tmp_path, act(CAMERA), "audio/wav"))
    manifest = (await inspect_marks(path, OWN_MEMORY, SETTINGS)).manifest
    assert manifest is not None
    assert (manifest.state, manifest.digital_source_type) == ("valid", CAMERA)


async def test_a_photograph_with_a_manifest_was_not_generated(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(sign_foreign(make_picture("jpeg"), tmp_path, {**act(CAMERA), "title": "IMG_1"}))
    report = await inspect_marks(path, OWN_MEMORY, SETTINGS)
    assert report.manifest is not None
    assert (report.manifest.state, report.manifest.says_generated) == ("valid", False)
    assert (report.manifest.title, report.manifest.generator) == ("IMG_1", "Camera 7")
    assert report.manifest.generated_at == "2024-05-01T08:00:00Z"
    assert report.manifest.digital_source_type == CAMERA
    assert report.labels is None


def edit_foreign(data: bytes, folder: Path, trusted: str | None = None) -> bytes:
    """Return an edited JPEG, signed by another installation, whose program trusts certificates of its own."""
    ingredient = {"title": "made.jpg", "relationship": "parentOf", "label": "made"}
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["made"]}}
    definition = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [opened]}}]}
    credential = load_installation_key(folder)
    edited = BytesIO()
    with (
        Context.from_json(make_settings(trusted)) as context,
        Builder(definition, context=context) as builder,
        Signer.from_info(C2paSignerInfo(b"es256", credential.chain, credential.key or b"", None)) as signer,
    ):
        builder.add_ingredient(ingredient, MIME_TYPES["jpeg"], BytesIO(data))
        builder.sign(signer, MIME_TYPES["jpeg"], BytesIO(data), edited)
    return edited.getvalue()


async def test_an_edited_version_of_a_generated_picture_is_still_generated(tmp_path: Path) -> None:
    made = await write_marked("jpeg", tmp_path)
    edited = tmp_path / "edited.jpg"
    edited.write_bytes(edit_foreign(made.read_bytes(), tmp_path))
    report = await inspect_marks(edited, OWN_MEMORY, SETTINGS)
    assert report.manifest is not None
    assert report.manifest.says_generated
    (found,) = report.manifest.ingredients
    assert (found.title, found.relationship, found.state) == ("made.jpg", "parentOf", "valid")
    assert (found.digital_source_type, found.issuer) == (GENERATED, "Self-made certificate, untrusted")


async def test_whom_another_signer_trusts_is_not_trusted_here(tmp_path: Path) -> None:
    made = await write_marked("jpeg", tmp_path)
    first, second = (tmp_path / name / "marks" / "root-certificate.pem" for name in (".", "second"))
    edited, both = tmp_path / "edited.jpg", tmp_path / "both.pem"
    edited.write_bytes(edit_foreign(made.read_bytes(), tmp_path / "second", first.read_text()))
    both.write_text(first.read_text() + second.read_text())
    states: list[tuple[str, str]] = []
    for anchors in (None, first, both):
        manifest = (await inspect_marks(edited, OWN_MEMORY, MarksSettings(trust_anchors=anchors))).manifest
        assert manifest is not None
        states.append((manifest.state, manifest.ingredients[0].state))
    assert states == [("valid", "valid"), ("valid", "valid"), ("trusted", "trusted")]


def test_what_was_only_a_component_does_not_count() -> None:
    part = MarkedIngredient(relationship="componentOf", state="valid", digital_source_type=GENERATED)
    assert not Manifest(state="valid", digital_source_type=CAMERA, ingredients=[part]).says_generated
    broken = part.model_copy(update={"relationship": "parentOf", "state": "invalid"})
    assert not Manifest(state="valid", ingredients=[broken]).says_generated
    assert Manifest(state="trusted", digital_source_type=COMPOSITE).says_generated
    assert not Manifest(state="invalid", digital_source_type=COMPOSITE).says_generated


async def test_a_process_that_needs_too_long_is_ended(tmp_path: Path) -> None:
    path = await write_marked("png", tmp_path)
    with pytest.raises(UndecodableMedia, match=r"file: decoding takes longer than 0\.0001 s"):
        await inspect_marks(path, OWN_MEMORY.model_copy(update={"deadline_s": 0.0001}), SETTINGS)


HOSTILE: dict[str, Any] = {
    "not even a store": {"manifests": 3, "active_manifest": [1]},
    "wrong types": {
        "active_manifest": "a",
        "manifests": {
            "a": {
                "title": 7,
                "claim_generator_info": "x",
                "signature_info": [],
                "ingredients": [1, {"title": {}, "active_manifest": {}, "validation_results": 1}],
                "assertions": [None, {"label": "c2pa.actions.v2", "data": {"actions": ["x", {"when": 5}]}}],
            }
        },
        "validation_results": {"activeManifest": {"failure": [1, {"code": {}}]}, "ingredientDeltas": 5},
        "validation_state": "Perfect",
    },
    "too much": {
        "active_manifest": "a",
        "manifests": {
            "a": {
                "title": "x" * 10 * MAX_TEXT,
                "ingredients": [{"title": "x"}] * 10 * MAX_ENTRIES,
                "assertions": [
                    {
                        "label": "org.reelgraph.generation",
                        "data": {"seed": "7", "prompts": {str(i): i for i in range(1000)}, "createdAt": "9999-99-99"},
                    }
                ],
            }
        },
    },
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_store_of_another_form_is_taken_as_far_as_it_can(kind: str) -> None:
    manifest = Manifest.model_validate(describe_store(HOSTILE[kind]))
    assert manifest.state == "invalid"
    assert len(manifest.title or "") <= MAX_TEXT
    assert len(manifest.ingredients) <= MAX_ENTRIES
    assert len(manifest.prompts) <= MAX_ENTRIES
    assert (manifest.seed, manifest.generated_at) == (None, None)


async def test_many_files_are_read_at_once(tmp_path: Path) -> None:
    path = await write_marked("jpeg", tmp_path)
    reports = await asyncio.gather(*(inspect_marks(path, OWN_MEMORY, SETTINGS) for _ in range(4)))
    assert [report.manifest is not None for report in reports] == [True] * 4


async def test_a_file_with_a_users_picture_says_composite(tmp_path: Path) -> None:
    path = write_file("png", tmp_path)
    settings = SETTINGS.model_copy(update={"c2pa": False})
    await Marker(settings, tmp_path).mark_file(path, "png", COMPOSITE_PROVENANCE)
    report = await inspect_marks(path, OWN_MEMORY, SETTINGS)
    assert report.manifest is None
    assert report.labels is not None
    assert report.labels.source_type == COMPOSITE


async def test_too_little_memory_costs_only_the_process(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(make_picture("jpeg")[:-2])  # c2pa reads a JPEG as a whole
    with path.open("r+b") as file:
        file.truncate(900 << 20)
    small = OWN_MEMORY.model_copy(update={"memory_bytes": 256 << 20})
    assert await inspect_marks(path, small, SETTINGS) == MarksReport()
    with path.open("ab") as file:
        file.write(b"jumb")  # it may have a manifest
    with pytest.raises(LimitExceeded, match="file: reading needs more than 768 MiB of memory"):
        await inspect_marks(path, OWN_MEMORY, SETTINGS)
    limits = OWN_MEMORY.model_copy(update={"memory_bytes": 512 << 20})
    with pytest.raises(LimitExceeded, match=r"^file: .* needs 768 MiB of memory; the limit is 512 MiB"):
        await inspect_marks(path, limits, SETTINGS)


def test_the_answer_is_small(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    assert read_marks(str(path), {"trust_anchors": None}) == ({}, b'{"manifest": null, "labels": null}')
