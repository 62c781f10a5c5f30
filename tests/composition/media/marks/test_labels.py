"""Labels are written into every kind of file, replace older ones, and touch no pixel and no sample."""

import asyncio
import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import av
import pytest
from PIL import Image

from composition.media.marks import aigc, xmp
from composition.media.marks.containers import mp4, webp
from composition.media.marks.containers.boxes import build_box
from composition.media.marks.containers.source import MAX_PACKET_BYTES, Source
from composition.media.marks.label_reading import FIELDS, read_labels
from composition.media.marks.labels import MAX_PROMPT_BYTES, label_bytes, read_system_version
from composition.media.marks.marker import Marker
from composition.media.marks.provenance import Provenance
from composition.media.marks.report import MarkedLabels
from composition.media.marks.settings import MARKS_OFF, MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATED, MarkedFormat
from services.errors import ModelFailed, StorageFailed
from tests.composition.media.marks.generated import (
    COMPOSITE as COMPOSITE_PROVENANCE,
)
from tests.composition.media.marks.generated import (
    KINDS,
    PROVENANCE,
    VIDEOS,
    form_of,
    make_picture,
    write_file,
    write_video,
)

SETTINGS = MarksSettings(provider="Müller & <Söhne>")
AIGC = {
    "Label": "1",
    "ContentProducer": "Müller & <Söhne>",
    "ProduceID": PROVENANCE.content_id,
    "ReservedCode1": "",
    "ContentPropagator": "",
    "PropagateID": "",
    "ReservedCode2": "",
}
EXPECTED = {
    "source_type": GENERATED,
    "provider": "Müller & <Söhne>",
    "system": "reelgraph",
    "system_version": read_system_version(),
    "created_at": "2026-08-02T12:30:15+00:00",
    "content_id": PROVENANCE.content_id,
    "aigc": AIGC,
}


def add_labels(path: Path, form: MarkedFormat, settings: MarksSettings, provenance: Provenance) -> None:
    """Write the labels alone into a finished file."""
    marker = Marker(settings.model_copy(update={"c2pa": False}), path.parent)
    asyncio.run(marker.mark_file(path, form, provenance))


def decode(path: Path, kind: str) -> object:
    """Return the packets of a video, or the frames of a picture with what a viewer needs."""
    if kind in VIDEOS:
        with av.open(str(path)) as container:
            packets = [(bytes(packet), packet.pts, packet.dts) for packet in container.demux() if packet.size]
        with av.open(str(path)) as container:
            return packets, [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]
    with Image.open(path) as picture:
        frames: list[object] = []
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            info = picture.info.get("duration"), picture.info.get("loop"), picture.getexif().tobytes()
            frames.append((picture.mode, picture.size, info, picture.convert("RGBA").tobytes()))
        return frames


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_read_again_and_the_content_is_the_same(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    before = decode(path, kind)
    assert read_labels(path) == {}

    labelled = label_bytes(path.read_bytes(), form_of(kind), SETTINGS, PROVENANCE)
    add_labels(path, form_of(kind), SETTINGS, PROVENANCE)

    assert path.read_bytes() == labelled
    assert read_labels(path) == EXPECTED
    assert decode(path, kind) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_replaced_not_doubled(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    add_labels(path, form_of(kind), SETTINGS, PROVENANCE)
    once = path.read_bytes()
    add_labels(path, form_of(kind), SETTINGS, COMPOSITE_PROVENANCE)
    assert read_labels(path)["source_type"] == COMPOSITE
    assert path.read_bytes().count(b"DigitalSourceType>") == 2  # one element
    add_labels(path, form_of(kind), SETTINGS, PROVENANCE)
    assert path.read_bytes() == once


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "gif", "mp4"])
def test_each_label_is_turned_off_alone(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    plain = path.read_bytes()
    add_labels(path, form_of(kind), MARKS_OFF, PROVENANCE)
    assert path.read_bytes() == plain == label_bytes(plain, form_of(kind), MARKS_OFF, PROVENANCE)
    add_labels(path, form_of(kind), MarksSettings(aigc=False), PROVENANCE)
    assert (read_labels(path)["source_type"], read_labels(path).get("aigc")) == (GENERATED, None)
    assert b"AIGC" not in path.read_bytes()
    path.write_bytes(plain)
    add_labels(path, form_of(kind), MarksSettings(source_type=False), PROVENANCE)
    assert read_labels(path) == {"aigc": AIGC | {"ContentProducer": "reelgraph"}}


@pytest.mark.parametrize("kind", ["png", "jpeg", "mp4"])
def test_prompts_are_written_only_by_setting(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    add_labels(path, form_of(kind), MarksSettings(), PROVENANCE)
    assert "prompt" not in read_labels(path)
    add_labels(path, form_of(kind), MarksSettings(prompts=True), PROVENANCE)
    assert read_labels(path)["prompt"] == PROVENANCE.prompts["prompt"]
    long = PROVENANCE.__class__(
        PROVENANCE.content_id, PROVENANCE.created_at, "v2v", prompts={"prompt": "ä" * MAX_PROMPT_BYTES}
    )
    add_labels(path, form_of(kind), MarksSettings(prompts=True), long)
    assert (read_labels(path).get("prompt"), read_labels(path)["source_type"]) == (None, GENERATED)


def test_the_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = write_file("png", tmp_path)
    path.chmod(0o640)
    add_labels(path, "png", SETTINGS, PROVENANCE)
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_labelled_stays_as_it_was(tmp_path: Path) -> None:
    path = write_file("png", tmp_path)
    data = path.read_bytes()
    with pytest.raises(ModelFailed, match="the finished mp4 cannot be labelled"):
        add_labels(path, "mp4", SETTINGS, PROVENANCE)
    assert path.read_bytes() == data
    fragmented = tmp_path / "fragmented.mp4"
    write_video(fragmented, {"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(ModelFailed, match="not a progressive MP4"):
        add_labels(fragmented, "mp4", SETTINGS, PROVENANCE)
    with pytest.raises(StorageFailed, match="No such file"):
        add_labels(tmp_path / "missing.png", "png", SETTINGS, PROVENANCE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file.png", "fragmented.mp4"]


@pytest.mark.parametrize("kind", ["lossy webp with alpha", "lossless webp", "lossless webp with alpha", "lossy webp"])
def test_a_simple_webp_gets_the_right_header(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    add_labels(path, "webp", SETTINGS, PROVENANCE)
    data = path.read_bytes()
    assert len(data) == 8 + int.from_bytes(data[4:8], "little")
    assert data[12:16] == b"VP8X"
    flags = webp.XMP_FLAG | (webp.ALPHA_FLAG if "alpha" in kind else 0)
    assert data[20:30] == bytes([flags, 0, 0, 0, 47, 0, 0, 31, 0, 0])


def test_metadata_of_a_video_is_kept(tmp_path: Path) -> None:
    for kind in VIDEOS:
        path = write_file(kind, tmp_path)
        add_labels(path, "mp4", SETTINGS, PROVENANCE)
        with av.open(str(path)) as container:
            assert container.metadata["comment"] == "kept"
            assert aigc.parse_label(container.metadata["AIGC"]) == AIGC


def test_positions_beyond_4_gib_become_64_bit(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    end = (1 << 32) - 16  # where the last chunk is: 16 bytes before 4 GiB
    table = struct.pack(">III", 0, 2, 4096) + struct.pack(">I", end)
    index = build_box(b"stco", table)
    for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        index = build_box(kind, index)
    head = build_box(b"ftyp", b"isom\0\0\0\0") + index
    with path.open("wb") as file:
        file.write(head + struct.pack(">I4sQ", 1, b"mdat", (1 << 32) - len(head) + 64))
        file.truncate((1 << 32) + 64)
    with path.open("rb") as file:
        pieces = mp4.set_labels(Source(file), b"<packet/>", {})
    _, moov, xmp_box, mdat = pieces
    assert isinstance(moov, bytes)
    assert isinstance(xmp_box, bytes)
    assert mdat == (len(head), (1 << 32) + 64)
    added = len(moov) + len(xmp_box) - len(index)
    place = moov.index(b"co64")
    assert struct.unpack_from(">QQ", moov, place + 12) == (4096 + added, end + added)
    assert b"stco" not in moov


def make_png(content: bytes) -> bytes:
    """Return a PNG whose `iTXt` chunk has this content."""
    chunk = struct.pack(">I", len(content)) + b"iTXt" + content + struct.pack(">I", zlib.crc32(b"iTXt" + content))
    picture = make_picture("png")
    return picture[:33] + chunk + picture[33:]


def test_a_compressed_packet_is_read_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    packet = xmp.build_packet({xmp.SOURCE_TYPE: GENERATED})
    path.write_bytes(make_png(b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)))
    assert read_labels(path)["source_type"] == GENERATED
    bomb = packet + b" " * (500 * MAX_PACKET_BYTES)
    path.write_bytes(make_png(b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bomb)))
    assert read_labels(path) in ({}, {"source_type": GENERATED})


RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XML = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{{}}</rdf:RDF></x:xmpmeta>'
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
DESCRIPTION = f'<rdf:Description xmlns:i="{IPTC}">{{}}</rdf:Description>'
FOREIGN: Mapping[str, str] = {
    "attribute": f'<rdf:Description xmlns:i="{IPTC}" i:DigitalSourceType="{GENERATED}"/>',
    "element": DESCRIPTION.format(f"<i:DigitalSourceType> {GENERATED}\n</i:DigitalSourceType>"),
    "resource": DESCRIPTION.format(f'<i:DigitalSourceType rdf:resource="{GENERATED}"/>'),
    "list": DESCRIPTION.format(
        f"<i:DigitalSourceType><rdf:Bag><rdf:li>{GENERATED}</rdf:li></rdf:Bag></i:DigitalSourceType>"
    ),
}
"""Ways of other programs to write a property."""


@pytest.mark.parametrize("form", FOREIGN)
def test_packets_of_other_programs_are_read(form: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.tiff"
    path.write_bytes(b"II*\0" + b"\0" * (MAX_PACKET_BYTES - 30) + XML.format(FOREIGN[form]).encode() + b"\0" * 99)
    assert read_labels(path) == {"source_type": GENERATED}


HOSTILE: Mapping[str, bytes] = {
    "nothing": b"",
    "text": b"a plain text",
    "entities": b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + XML.format("&b;").encode(),
    "a file on this machine": b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + XML.format("&a;").encode(),
    "deep": b"<x:xmpmeta>" + b"<a>" * 100_000 + b"</x:xmpmeta>",
    "unknown encoding": b"<?xml version='1.0' encoding='utf-99'?><x:xmpmeta></x:xmpmeta>",
    "deep json": XML.format(
        f'<rdf:Description xmlns:TC260="{aigc.NAMESPACE}"><TC260:AIGC>{"[" * 9000}</TC260:AIGC></rdf:Description>'
    ).encode(),
    "json of another form": XML.format(
        f'<rdf:Description xmlns:TC260="{aigc.NAMESPACE}" TC260:AIGC="[1, 2]"/>'
    ).encode(),
    "jpeg": b"\xff\xd8\xff\xe1\xff\xff",
    "fill bytes": b"\xff\xd8" + b"\xff" * 3_000_000,
    "png": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0abcd\0\0\0\0" * 100_000,
    "large chunk": b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXt",
    "gif": b"GIF89a" + b"\0" * 7 + b"!\xff\x0bXMP DataXMP" + b"\xff" * 600,
    "webp": b"RIFF\xff\xff\xff\xffWEBP" + b"XMP \xff\xff\xff\xff",
    "box of no size": b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\0moov",
    "small box": b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\1moov\0\0\0\0\0\0\0\2",
    "many boxes": b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_have_no_labels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[kind])
    assert read_labels(path) == {}


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "gif", "mp4"])
def test_damaged_files_are_read_without_an_error(kind: str, tmp_path: Path) -> None:
    path = write_file(kind, tmp_path)
    add_labels(path, form_of(kind), SETTINGS, PROVENANCE)
    data = path.read_bytes()
    chance = random.Random(3)
    for _ in range(300):
        damaged = bytearray(data[: chance.randrange(len(data))])
        for _ in range(chance.randrange(4)):
            if damaged:
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        MarkedLabels.model_validate(read_labels(path))


def test_every_field_of_a_report_is_read() -> None:
    assert {*FIELDS, "aigc"} == set(MarkedLabels.model_fields)


def test_a_label_of_another_writer_is_read() -> None:
    assert aigc.parse_label('{"Label": 1, "ContentProducer": "x", "Other": "y", "ProduceID": {}}') == {
        "Label": "1",
        "ContentProducer": "x",
    }
    assert aigc.parse_label('{"ContentProducer": "x"}') is None


def test_characters_that_xml_has_not_are_replaced() -> None:
    packet = xmp.build_packet({xmp.PROVIDER: "a\0b\ud800c"})
    assert xmp.parse_packet(packet) == {xmp.PROVIDER: "a\ufffdb\ufffdc"}
