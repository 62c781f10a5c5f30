"""Only the formats, codecs and protocols that the configuration lists are decoded, by FFmpeg and by decord."""

from collections.abc import Callable
from pathlib import Path

import pytest
from av.codec import Codec
from av.error import FFmpegError
from pydantic import ValidationError

from composition.media.allowed import CONTAINERS, SOUND_CODECS, VIDEO_CODECS
from composition.media.decode import Decoder, probe_media
from composition.media.decoding.allowed_codecs import DECODERS, has_only_allowed, list_decoders
from composition.media.decoding.containers import open_container
from composition.media.decoding.headers import Limits
from composition.media.limits import MediaLimits
from services.errors import UndecodableMedia
from tests.composition import albums, heif
from tests.composition import sample_media as media
from tests.composition.beeps import Take, write_take

EXOTIC = {
    "snow": ("snow", "yuv420p", "mkv"),
    "zmbv": ("zmbv", "bgr0", "avi"),
    "jpegls": ("jpegls", "rgb24", "avi"),
    "msvideo1": ("msvideo1", "rgb555le", "avi"),
    "huffyuv": ("huffyuv", "yuv422p", "avi"),
    "ffvhuff": ("ffvhuff", "yuv420p", "avi"),
    "utvideo": ("utvideo", "yuv420p", "avi"),
    "cinepak": ("cinepak", "rgb24", "avi"),
    "flv1": ("flv", "yuv420p", "avi"),
    "wmv2": ("wmv2", "yuv420p", "avi"),
    "svq1": ("svq1", "yuv410p", "mov"),
    "msmpeg4v3": ("msmpeg4", "yuv420p", "avi"),
    "magicyuv": ("magicyuv", "yuv420p", "avi"),
}
"""Codec → encoder, pixel format, extension of the file."""


def write_exotic(folder: Path, codec: str) -> Path:
    encoder, pix_fmt, extension = EXOTIC[codec]
    return media.count(folder / f"a.{extension}", 3, media.Coding(encoder, pix_fmt, {"strict": "experimental"}))


def limit(**more: object) -> Limits:
    return Limits(**MediaLimits.model_validate(more).model_dump())


@pytest.mark.parametrize("codec", EXOTIC)
async def test_a_codec_that_is_not_listed_is_refused(tmp_path: Path, codec: str) -> None:
    path = write_exotic(tmp_path, codec)
    refusal = rf"input_video: the codec {codec} is not allowed here; allowed are h264, .*, webp \(media\.video_codecs\)"
    with pytest.raises(UndecodableMedia, match=refusal):
        await probe_media(path, param="input_video")
    facts = await probe_media(path, MediaLimits(video_codecs=(*VIDEO_CODECS, codec)))
    assert (facts.codec, facts.frames) == (codec, 3)


@pytest.mark.parametrize("codec", EXOTIC)
def test_ffmpeg_itself_opens_no_decoder_that_is_not_listed(tmp_path: Path, codec: str) -> None:
    path = str(write_exotic(tmp_path, codec))
    for codecs, frames in ((VIDEO_CODECS, 0), ((*VIDEO_CODECS, codec), 3)):
        limits = limit(video_codecs=codecs)
        with open_container(path, "matroska,webm,avi,mov,mp4,m4a,3gp,3g2,mj2", limits) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"codec_whitelist": list_decoders(limits)}
            count = 0
            try:
                count = sum(1 for _ in container.decode(stream))
            except FFmpegError:
                assert frames == 0
            assert count == frames
            assert has_only_allowed(container, limits) == (frames > 0)


@pytest.mark.parametrize("codec", [*VIDEO_CODECS, *SOUND_CODECS])
def test_every_codec_of_the_defaults_has_a_decoder(codec: str) -> None:
    decoders = list_decoders(limit(video_codecs=[codec], sound_codecs=[])).split(",")
    known = [name for name in decoders if is_known(name)]
    assert known
    assert {Codec(name, "r").canonical_name for name in known} == {codec}
    assert Codec(codec, "r").name in decoders or codec in DECODERS


def is_known(name: str) -> bool:
    try:
        return Codec(name, "r").name == name
    except ValueError:
        return False


async def test_sound_of_a_codec_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    path = write_take(tmp_path / "a.avi", Take("avi", audio="adpcm_ms"))
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        assert decoder.facts.sound == "adpcm_ms"
        for copied in (True, False):
            with pytest.raises(
                UndecodableMedia, match=r"its codec adpcm_ms is not allowed here; .*media\.sound_codecs"
            ):
                await decoder.begin_sound(copied=copied)
    async with Decoder.open(path, MediaLimits(sound_codecs=(*SOUND_CODECS, "adpcm_ms"))) as decoder:
        assert (await decoder.begin_sound(copied=False)).rate == 48_000


def picture(name: str) -> Callable[[Path], Path]:
    return lambda folder: media.picture(folder / name, media.solid((200, 30, 90)))


def write_heic(folder: Path) -> Path:
    path = folder / "a.heic"
    path.write_bytes(heif.write_heic(media.solid((200, 30, 90))))
    return path


FILES: dict[str, Callable[[Path], Path]] = {
    "mp4": lambda folder: media.count(folder / "a.mp4", 3),
    "matroska": lambda folder: media.count(folder / "a.mkv", 3),
    "avi": lambda folder: media.count(folder / "a.avi", 3),
    "mpegts": lambda folder: media.count(folder / "a.ts", 40),
    "zip": lambda folder: albums.album(folder / "a.zip", 2),
    "heif": write_heic,
    **{form: picture(f"a.{form}") for form in ("png", "jpeg", "webp", "gif", "avif")},
}
"""Name of a format → writes a file of it."""


@pytest.mark.parametrize("container", FILES)
async def test_a_format_that_is_not_listed_is_refused(tmp_path: Path, container: str) -> None:
    path = FILES[container](tmp_path)
    others = tuple(name for name in CONTAINERS if name != container)
    refusal = "the format must be one of" if container == "mpegts" else f"the format {container} is not allowed here; "
    with pytest.raises(UndecodableMedia, match=refusal):
        await probe_media(path, MediaLimits.model_validate({"containers": others}))
    only = tuple({container, "png"})
    assert (await probe_media(path, MediaLimits.model_validate({"containers": only}))).frames


def test_there_is_no_protocol_but_file() -> None:
    with pytest.raises(ValidationError, match="protocols"):
        MediaLimits.model_validate({"protocols": ["file", "http"]})
