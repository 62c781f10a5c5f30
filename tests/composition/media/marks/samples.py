"""Finished files to mark, and what is said of them."""

import json
import struct
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from c2pa import Builder, C2paSignerInfo, Context, Reader, Signer  # pyright: ignore[reportMissingTypeStubs]
from PIL import Image

from composition.media.marks.credential import Credential
from composition.media.marks.marker import MIME_TYPES
from composition.media.marks.provenance import ModelUse, Provenance
from composition.media.marks.vocabulary import GENERATED, MarkedFormat
from services.frames import Pixels
from tests.composition.sample_media import clip, numbered

FORMATS: tuple[MarkedFormat, ...] = ("mp4", "png", "jpeg", "webp", "gif")
CREATED_AT = datetime(2026, 11, 30, 12, 30, 15, 999, tzinfo=UTC)
MADE = Provenance(
    content_id="video_1/video",
    created_at=CREATED_AT,
    task="v2v",
    models=[
        ModelUse("restyle", "flux", "black-forest-labs/FLUX.1-Kontext-dev", "a" * 40),
        ModelUse("animate", "wan", "path:/srv/secret/wan", "b" * 40),
    ],
    loras={"ink": "c" * 64},
    seed=2**63 - 1,
    prompts={"prompt": "a red fox"},
)


def noise(width: int = 96, height: int = 64) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def write_file(folder: Path, form: MarkedFormat) -> Path:
    """Write a finished file of a format, without marks."""
    folder.mkdir(exist_ok=True)
    path = folder / f"made.{form}"
    if form == "mp4":
        return clip(path, [numbered(i) for i in range(12)])
    Image.fromarray(noise()).save(path, form)
    return path


def read_store(data: bytes | Path, form: MarkedFormat, anchors: str | None = None) -> dict[str, Any]:
    """Read a manifest store with c2pa-python alone."""
    settings: dict[str, Any] = {"verify": {"remote_manifest_fetch": False}}
    if anchors is not None:
        settings["trust"] = {"trust_anchors": anchors}
    with (
        Context.from_json(json.dumps(settings)) as context,
        BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file,
        Reader(MIME_TYPES[form], file, context=context) as reader,
    ):
        return json.loads(reader.json())


def get_active(store: dict[str, Any]) -> dict[str, Any]:
    """Return the active manifest of a store."""
    return store["manifests"][store["active_manifest"]]


def get_assertion(store: dict[str, Any], label: str) -> Any:
    """Return the data of an assertion of the active manifest."""
    (assertion,) = [item for item in get_active(store)["assertions"] if item["label"] == label]
    return assertion["data"]


def list_failures(store: dict[str, Any]) -> list[str]:
    return [failure["code"] for failure in store["validation_results"]["activeManifest"]["failure"]]


def make_remote_picture(address: str) -> bytes:
    """Return a JPEG that says that its manifest is kept elsewhere."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/"'
        f' dcterms:provenance="{address}"/></rdf:RDF></x:xmpmeta>'
    )
    buffer = BytesIO()
    Image.fromarray(noise()).save(buffer, "jpeg", xmp=packet.encode())
    return buffer.getvalue()


def write_large_mp4(folder: Path, size: int) -> Path:
    """Write an mp4 whose media data have `size` bytes, the last of which no sample refers to."""
    path = write_file(folder, "mp4")
    boxes = split_boxes(path.read_bytes())
    with path.open("wb") as file:
        for kind, content in boxes:
            extra = size - len(content) - 8 if kind == b"mdat" else 0
            file.write(struct.pack(">I4s", len(content) + 8 + extra, kind) + content)
            block = bytes(range(256)) * 4096
            while extra > 0:
                extra -= file.write(block[:extra])
    return path


def split_boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return kind and content of each box of a file."""
    boxes: list[tuple[bytes, bytes]] = []
    while data:
        size, kind = struct.unpack_from(">I4s", data)
        boxes.append((kind, data[8:size]))
        data = data[size:]
    return boxes


def sign_at_once(path: Path, credential: Credential) -> None:
    """Sign an mp4 as c2pa-rs does by default, with one hash over the whole file."""
    definition = {
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": GENERATED}]},
            }
        ]
    }
    info = C2paSignerInfo(credential.algorithm, credential.chain, credential.key or b"", None)
    signed = path.with_suffix(".signed")
    settings = json.dumps({"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}})
    with (
        Context.from_json(settings) as context,
        Builder(definition, context=context) as builder,
        Signer.from_info(info) as signer,
        path.open("rb") as source,
        signed.open("w+b") as target,
    ):
        builder.sign(signer, "video/mp4", source, target)
    signed.replace(path)
