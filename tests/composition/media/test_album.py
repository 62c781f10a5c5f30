"""Pictures in a zip archive or a folder: natural order, the same pixels as alone, cheap rejection of hostile ones."""

import gc
import os
import random
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from av.video.frame import VideoFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from composition.graphs.inputs import Media
from composition.graphs.run import GraphSettings
from composition.media.decode import Decoder, probe_media
from composition.media.decoding import archive as decode_archive
from composition.media.decoding.album import Album
from composition.media.decoding.archive import Archive, natural_key
from composition.media.decoding.headers import Limits
from composition.media.decoding.media_file import MediaFile
from composition.media.decoding.worker import spread_positions
from composition.media.limits import MediaLimits
from composition.records.artifacts import ArtifactSettings
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Frames, Pixels
from tests.composition import albums, heif
from tests.composition import sample_media as media
from tests.composition.albums import album, encoded, folder, noisy, zipped
from tests.composition.media.test_decode import numbers, pulled, stills, workers
from tests.composition.sample_media import Coding
from tests.memory import trace_memory

LIMITS = Limits(**MediaLimits().model_dump())


async def runs(decoder: Decoder, start: int = 0, count: int | None = None) -> list[Frames]:
    return [run async for run in decoder.stream_runs(start, count)]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_a_zip_is_its_pictures_in_order(tmp_path: Path, method: int) -> None:
    entries = [(f"frame{n}.png", albums.numbered(n)) for n in range(40)]
    path = zipped(tmp_path / "named-otherwise.mp4", random.Random(0).sample(entries, 40), method)
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        assert (facts.kind, facts.width, facts.height, facts.frames) == ("pictures", 64, 48, 40)
        assert (facts.rate, facts.duration_s, facts.damaged, facts.codec) == (None, 0.0, None, "png")
        assert [run.count for run in await runs(decoder)] == [16, 16, 8]
        assert [run.count for run in await runs(decoder, 3, 20)] == [16, 4]
        assert numbers(await pulled(decoder)) == list(range(40))
        assert numbers(await pulled(decoder, 11, 2)) == [11, 12]
        assert await runs(decoder, 40) == []
        last = await decoder.read_last()
        assert (last.first, numbers(last.pixels)) == (39, [39])
        assert numbers((await decoder.sample(8)).pixels) == spread_positions(8, 40)
    assert workers() == []


async def test_a_folder_is_its_pictures_in_order(tmp_path: Path) -> None:
    files = {f"part{n // 8}/{n}.png": albums.numbered(n) for n in range(20)}
    path = folder(tmp_path / "edges", files | {".hidden/a.png": b"?", "part1/Thumbs.db": b"?"})
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        assert (decoder.facts.kind, decoder.facts.frames) == ("pictures", 20)
        assert numbers(await pulled(decoder)) == list(range(20))


async def test_a_folder_s_links_to_files_are_followed_and_others_named(tmp_path: Path) -> None:
    kept = folder(tmp_path / "kept", {"1.png": albums.numbered(1)})
    path = folder(tmp_path / "edges", {"0.png": albums.numbered(0)})
    (path / "1.png").symlink_to(kept / "1.png")
    assert (await probe_media(path)).frames == 2
    (path / "more").symlink_to(kept)
    with pytest.raises(UndecodableMedia, match="'more': must be a file, got a link to a folder"):
        await probe_media(path)
    (path / "more").unlink()
    (path / "notes.txt").write_text("no picture")
    with pytest.raises(UndecodableMedia, match=r"'notes.txt': the file is text, not a picture"):
        await probe_media(path)
    with pytest.raises(UndecodableMedia, match="no pictures in the archive"):
        await probe_media(folder(tmp_path / "none", {".DS_Store": b"?"}))


async def test_graphs_open_folders_and_zips(tmp_path: Path) -> None:
    opener = Media(GraphSettings(artifacts=ArtifactSettings(url=str(tmp_path / "artifacts"))))
    files = {f"{n}.png": albums.numbered(n) for n in range(3)}
    for path in (folder(tmp_path / "edges", files), album(tmp_path / "edges.zip", 3)):
        async with opener.open(str(path)) as decoder:
            assert numbers(await pulled(decoder)) == [0, 1, 2]
        assert numbers((await opener.read_picture(str(path))).pixels) == [2]


async def test_every_picture_looks_as_it_does_alone(tmp_path: Path) -> None:
    for name, written, _, how in stills():
        media.picture(tmp_path / name, written, **how)
    coloured = np.resize(np.arange(256, dtype=np.uint8), (33, 47))
    palette = Image.fromarray(coloured).convert("P")
    palette.putpalette(random.Random(0).randbytes(768))
    palette.save(tmp_path / "palette.png", transparency=7)
    exif = Image.Exif()
    exif[0x0112] = 5
    media.picture(tmp_path / "turned.jpg", noisy(0, 33, 47), exif=exif)
    Image.fromarray(noisy(1, 47, 33)).convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(noisy(2, 47, 33)).convert("LA").save(tmp_path / "grey-alpha.png")
    for form in ("rgb48be", "rgba64be", "monob"):
        coding = Coding("png", form, form="image2", tagged=False)
        media.clip(tmp_path / f"{form}.png", [noisy(3, 47, 33)], coding=coding)
    paths = sorted(Path(entry.path) for entry in os.scandir(tmp_path))
    alone: list[Pixels] = []
    for path in paths:
        async with Decoder.open(path) as decoder:
            alone.append((await decoder.read_last()).pixels[0])
    together = zipped(tmp_path / "all.zip", [(f"{n} {path.name}", path.read_bytes()) for n, path in enumerate(paths)])
    async with Decoder.open(together) as decoder:
        assert np.array_equal(await pulled(decoder), np.stack(alone))


async def test_a_run_ends_where_another_size_begins(tmp_path: Path) -> None:
    sizes = [(64, 48)] * 3 + [(96, 64)] * 2 + [(64, 48)] + [(32, 96)] * 20
    path = zipped(tmp_path / "a.zip", [(f"{n}.png", albums.numbered(n, *size)) for n, size in enumerate(sizes)])
    async with Decoder.open(path) as decoder:
        assert (decoder.facts.width, decoder.facts.height, decoder.facts.frames) == (64, 48, 26)
        seen = await runs(decoder)
        assert [(run.first, run.count) for run in seen] == [(0, 3), (3, 2), (5, 1), (6, 16), (22, 4)]
        assert [(run.width, run.height) for run in seen for _ in range(run.count)] == sizes
        assert [number for run in seen for number in numbers(run.pixels)] == list(range(26))
        assert [(run.first, run.count) for run in await runs(decoder, 2, 3)] == [(2, 1), (3, 2)]
        assert (await decoder.read_last()).pixels.shape == (1, 96, 32, 3)
        sampled = await decoder.sample(16)
        assert sampled.pixels.shape == (16, 48, 64, 3)
        assert numbers(sampled.pixels) == spread_positions(16, 26)


async def test_runs_of_large_pictures_are_short(tmp_path: Path) -> None:
    large = encoded(np.zeros((2304, 4096, 3), np.uint8))
    async with Decoder.open(zipped(tmp_path / "a.zip", [(f"{n}.png", large) for n in range(3)])) as decoder:
        assert [run.count for run in await runs(decoder)] == [2, 1]


async def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    kept = [("b/", b""), ("b/frame1.png", albums.numbered(1)), ("./b/frame2.png", albums.numbered(2))]
    left = ["__MACOSX/b/._frame1.png", "b/.DS_Store", "b/Thumbs.db", "thumbs.DB", ".git/config", ".hidden.png"]
    directory = zipfile.ZipInfo("folder")
    directory.external_attr = 0o040755 << 16
    entries = [*kept, *((name, b"?") for name in left), (directory, b"")]
    async with Decoder.open(zipped(tmp_path / "a.zip", entries)) as decoder:
        assert numbers(await pulled(decoder)) == [1, 2]


@pytest.mark.parametrize("name", sorted(albums.BAD))
async def test_archives_that_cannot_be_used_are_refused(tmp_path: Path, name: str) -> None:
    make, words = albums.BAD[name]
    with pytest.raises((UndecodableMedia, LimitExceeded)) as caught:
        await probe_media(make(tmp_path / "a.zip"), param="edge_frames")
    assert caught.value.param == "edge_frames"
    assert caught.value.message.startswith("edge_frames: ")
    assert len(caught.value.message) < 250
    for word in words:
        assert word in caught.value.message
    assert isinstance(caught.value, LimitExceeded) == ("max_" in caught.value.message or "min_" in caught.value.message)
    assert workers() == []


async def test_a_picture_that_is_not_looked_at_is_named_when_it_is_reached(tmp_path: Path) -> None:
    entries = [(f"{n}.png", encoded(noisy(n))) for n in range(60)]
    entries[20] = ("20.png", albums.spoiled(entries[20][1]))
    path = zipped(tmp_path / "a.zip", entries)
    assert (await probe_media(path)).frames == 60  # like a video, of which some frames are decoded
    async with Decoder.open(path, param="edge_frames") as decoder:
        asked = decoder.stream_runs()
        assert [(await anext(asked)).count, (await anext(asked)).count] == [16, 4]
        with pytest.raises(UndecodableMedia, match=r"edge_frames: '20.png': no frame can be decoded"):
            await anext(asked)
        assert [run.first for run in await runs(decoder, 21)] == [21, 37, 53]


async def test_too_many_pictures(tmp_path: Path) -> None:
    limits = MediaLimits(max_frames=3)
    assert (await probe_media(album(tmp_path / "a.zip", 3), limits)).frames == 3
    files = {f"{n}.png": albums.numbered(n) for n in range(4)}
    for path in (album(tmp_path / "b.zip", 4), folder(tmp_path / "b", files)):
        with pytest.raises(LimitExceeded, match=r"more pictures than the limit of 3 \(max_frames\)"):
            await probe_media(path, limits)


def test_a_directory_that_is_itself_a_bomb_is_not_read(tmp_path: Path) -> None:
    path = album(tmp_path / "a.zip", 1)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    size = decode_archive.INDEX_BYTES + 1
    with path.open("wb") as file:  # sparse: only both ends are written
        file.write(data[:4])
        file.seek(size)
        file.write(data[end : end + 12] + size.to_bytes(4, "little") + bytes(6))
    with pytest.raises(LimitExceeded, match=str(size)):
        Archive(str(path), 10)


SMALL = MediaLimits(max_pixels=64 * 48)
BOMB = 256 << 20


@pytest.mark.parametrize("lying", [False, True])
async def test_a_bomb_costs_nothing(tmp_path: Path, lying: bool) -> None:
    """A picture's header followed by zeros: too large by its declared size, or only when it is unpacked."""
    info = zipfile.ZipInfo("frame1.png")
    info.compress_type = zipfile.ZIP_DEFLATED
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open(info, "w") as entry:
        entry.write(albums.numbered(1))
        for _ in range(BOMB >> 20):
            entry.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    if lying:
        albums.patched(path, "frame1.png", *albums.UNPACKED, 1000)
    with pytest.raises(
        ReelError, match=r"'frame1.png': the file (cannot be unpacked: .*CRC|has \d+ bytes; .*max_pixels)"
    ):
        await probe_media(path, SMALL)
    with trace_memory() as memory, pytest.raises(ReelError):
        Album(str(path), Limits(**SMALL.model_dump()))
    assert memory.peak < 8 << 20


class Endless(Archive):
    """An archive that declares small pictures and contains far more bytes."""

    def size(self, name: str) -> int:
        return 1000


def test_reading_stops_at_the_limit_whatever_an_archive_says(tmp_path: Path) -> None:
    big = albums.numbered(0) + bytes(4 << 20)
    path = zipped(tmp_path / "a.zip", [("frame1.png", big)], zipfile.ZIP_DEFLATED)
    opened = Album.__new__(Album)
    opened._limits = Limits(**SMALL.model_dump())
    opened._max_bytes = 1 << 20
    opened._source = Endless(str(path), 10)
    with pytest.raises(LimitExceeded, match="more bytes than the limit"):
        opened._read("frame1.png")


async def test_a_large_uncompressed_picture_is_within_the_bound(tmp_path: Path) -> None:
    deep = encoded(noisy(0, 64, 48), compress_level=0)
    assert (await probe_media(zipped(tmp_path / "a.zip", [("a.png", deep)]), SMALL)).frames == 1
    with pytest.raises(LimitExceeded, match=r"'a.png': .*96x64.*max_pixels"):
        await probe_media(zipped(tmp_path / "b.zip", [("a.png", encoded(noisy(0, 96, 64)))]), SMALL)


async def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """Also for files: 160 pictures of 700 kB."""
    files = [(f"{n}.png", encoded(noisy(n, 640, 360), compress_level=0)) for n in range(16)]
    path = zipped(tmp_path / "a.zip", [(f"{i}/{name}", data) for i in range(10) for name, data in files])
    async with Decoder.open(path) as decoder:
        (worker,) = workers()
        seen = [worker.memory_info().rss async for _ in decoder.stream_runs()]
        assert psutil.Process(worker.pid).num_fds() < 20
    assert len(seen) == 10
    assert max(seen) - seen[1] < 16 << 20


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "gif"])
def test_a_picture_is_let_go_when_the_next_is_read(tmp_path: Path, form: str) -> None:
    path = zipped(tmp_path / "a.zip", [(f"{n}.{form}", encoded(media.numbered(n), form)) for n in range(20)])
    opened = Album(str(path), LIMITS)
    opened.verify(list(range(20)))
    assert sum(isinstance(thing, MediaFile | VideoFrame) for thing in gc.get_objects()) <= 2


async def test_more_pictures_than_a_worker_may_have_open_files(tmp_path: Path) -> None:
    files = {f"{n}.png": albums.numbered(n % 256) for n in range(300)}
    async with Decoder.open(folder(tmp_path / "edges", files)) as decoder:
        assert numbers(await pulled(decoder)) == [n % 256 for n in range(300)]


@pytest.mark.parametrize(
    "names",
    [
        ["frame2", "frame10"],
        ["2.png", "10.png", "frame1.png"],
        ["a2/10.png", "a10/2.png"],
        ["1.2.png", "1.10.png"],
        ["Frame1.png", "frame2.png", "FRAME3.png"],
        ["img9", "img" + "9" * 6000],
        ["x.png", "x1.png"],
        ["v2-f3.jpg", "v2-f20.jpg", "v10-f1.jpg"],
        ["ü2", "ü10"],
    ],
)
def test_natural_order(names: list[str]) -> None:
    names_backwards = names[::-1]
    assert sorted(names_backwards, key=natural_key) == names


def test_ties_keep_the_order_of_the_archive(tmp_path: Path) -> None:
    names = ["f01.png", "f1.png", "F1.png", "f001.png"]
    for order in (names, names[::-1]):
        assert Archive(str(zipped(tmp_path / "a.zip", [(name, b"") for name in order])), 9).names == order


@given(st.lists(st.integers(0, 10**30), unique=True), st.sampled_from(["", "frame", "a/b_", "x-1-"]), st.integers(0, 9))
def test_numbers_are_ordered_as_numbers(values: list[int], before: str, width: int) -> None:
    names = [f"{before}{value:0{width}}.png" for value in values]
    assert sorted(names, key=natural_key) == [f"{before}{value:0{width}}.png" for value in sorted(values)]


@given(st.lists(st.text()))
def test_any_names_have_an_order(names: list[str]) -> None:
    ordered = sorted(names, key=natural_key)
    assert all(natural_key(before) <= natural_key(after) for before, after in pairwise(ordered))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_whatever_is_wrong_with_an_archive_is_an_error_of_ours(tmp_path: Path, data: Any) -> None:
    entries = [(f"dir/{n}.png", random.Random(n).randbytes(200) + bytes(200)) for n in range(3)]
    whole = bytearray(zipped(tmp_path / "a.zip", entries, zipfile.ZIP_DEFLATED).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "b.zip"
    path.write_bytes(whole[data.draw(st.integers(0, 40)) :] if data.draw(st.booleans()) else whole)
    try:
        archive = Archive(str(path), 10)
    except ReelError:
        return
    for name in archive.names:
        archive.size(name)
        try:
            with archive.open(name) as file:
                assert len(file.read(1 << 20)) <= 1 << 20
        except ReelError:
            continue


async def test_photos_of_telephones_are_not_all_decoded_to_open_their_archive(tmp_path: Path) -> None:
    """As with JPEG, only some of them are: 500 would take minutes. One that is damaged is found when it is read."""
    photo = heif.write_heic(media.solid((200, 30, 90)))
    photos = [(f"{number:03}.heic", photo) for number in range(40)]
    photos[1] = "001.heic", photo[: len(photo) // 2]
    async with Decoder.open(albums.zipped(tmp_path / "a.zip", photos)) as decoder:
        await decoder.verify()
        assert decoder.facts.frames == 40
        with pytest.raises(UndecodableMedia, match=r"001\.heic"):
            await anext(decoder.stream_runs(1))
