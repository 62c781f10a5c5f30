"""The encoding of a job's video, through HTTP: what is asked for, what is written, and what the record says."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from composition.media.encoding import Encoding
from tests.composition import beeps
from tests.composition import sample_media as media
from tests.composition.enlarging import Enlarger, Shop, open_shop

LOSSLESS = media.Coding(pix_fmt="yuv444p", options={"crf": "0", "preset": "ultrafast"})


def frames(width: int, height: int, count: int = 12) -> list[Any]:
    """Return numbered frames with a white right column and a red bottom row."""
    made = [media.numbered(number, width, height).copy() for number in range(count)]
    for pixels in made:
        pixels[:, -1], pixels[-1] = 255, (255, 0, 0)
    return made


def check_claims(video: dict[str, Any], data: bytes) -> None:
    """Compare what the record says with the file."""
    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.video[0]
        sound = [each.codec_context.name for each in container.streams.audio]
        pictures = list(container.decode(stream))
        rate, duration_s = stream.average_rate, float(stream.duration * stream.time_base)
        codec = stream.codec_context.codec.canonical_name  # a closed container has none of these
    assert video["size"] == f"{pictures[0].width}x{pictures[0].height}"
    assert video["frames_total"] == video["frames_done"] == len(pictures)
    assert Fraction(video["rate"]) == rate
    assert float(video["seconds"]) == pytest.approx(duration_s, abs=0.001)
    assert video["codec"] == codec
    assert video["sound"] == (sound[0] if sound else None)
    written = video["videos"]["video"]
    assert {name: written[name] for name in ("size", "rate", "codec", "sound")} == {
        name: video[name] for name in ("size", "rate", "codec", "sound")
    }


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "odd.mp4", frames(65, 49), Fraction(24000, 1001), LOSSLESS)


@pytest.mark.parametrize(
    ("codec", "size", "padded"),
    [("h264", "195x147", None), ("hevc", "196x148", "195x147 to 196x148"), ("av1", "195x147", None)],
)
async def test_the_record_says_what_the_file_has(
    tmp_path: Path, odd: Path, codec: str, size: str, padded: str | None
) -> None:
    async with open_shop(tmp_path) as shop:
        video = await shop.enlarge(odd, scale=3, encoding={"codec": codec})
        data = await shop.fetch(video["id"])
    assert (video["status"], video["size"], video["codec"]) == ("completed", size, codec), video["error"]
    assert (video["rate"], video["facts"].get("padded")) == ("24000/1001", padded)
    check_claims(video, data)
    with av.open(io.BytesIO(data), "r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            shown = np.asarray(frame.reformat(format="rgb24", dst_color_range=2).to_ndarray(), int)
            assert media.number_of(shown[:146].astype(np.uint8)) == number
            assert np.abs(shown[:140, 194] - 255).max() <= 12
            assert np.abs(shown[146, :190] - (255, 0, 0)).max() <= 30


async def test_a_variable_rate_and_sound_are_told_as_they_are_written(tmp_path: Path) -> None:
    times = tuple(number + (number > 30) * 20 for number in range(beeps.FRAMES))
    clip = beeps.write_take(tmp_path / "take.mp4", beeps.Take(times=times))
    async with open_shop(tmp_path) as shop:
        for codec in ("h264", "av1"):
            video = await shop.enlarge(clip, encoding={"codec": codec})
            data = await shop.fetch(video["id"])
            assert (video["sound"], video["frames_total"]) == ("aac", beeps.FRAMES)
            assert float(video["seconds"]) == pytest.approx((times[-1] + 1) / 25, abs=0.001)
            assert Fraction(video["rate"]) == Fraction(25 * beeps.FRAMES, times[-1] + 1)
            check_claims(video, data)


async def test_a_bitrate_is_an_average(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(40)]
    clip = media.clip(tmp_path / "noise.mp4", noise, 25, LOSSLESS)
    async with open_shop(tmp_path) as shop:
        video = await shop.enlarge(clip, encoding='{"bitrate": "900k"}')
        data = await shop.fetch(video["id"])
    assert len(data) * 8 / 1.6 == pytest.approx(900_000, rel=0.15)
    assert video["params"]["encoding"] == {
        "codec": "h264",
        "bitrate": "900k",
        "crf": None,
        "preset": "veryfast",
        "large": "warn",
    }


async def test_a_request_completes_the_configured_encoding(tmp_path: Path, odd: Path) -> None:
    configured = Encoding(codec="hevc", crf=30, preset="fast")
    async with open_shop(tmp_path, encoding=configured) as shop:

        async def read(**fields: Any) -> tuple[str, Any, Any, str]:
            encoding = (await shop.order(odd, **fields)).json()["params"]["encoding"]
            return encoding["codec"], encoding["crf"], encoding["bitrate"], encoding["preset"]

        assert await read() == ("hevc", 30, None, "fast")
        assert await read(encoding={"crf": 25}) == ("hevc", 25, None, "fast")
        assert await read(encoding={"bitrate": "1M"}) == ("hevc", None, "1M", "fast")
        assert await read(encoding={"bitrate": 1_500_000}) == ("hevc", None, "1500000", "fast")
        assert await read(encoding='{"codec": "av1"}') == ("av1", 24, None, "8")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ({"crf": 60}, "encoding.crf: must be 0 to 51 for h264, got 60"),
        ({"codec": "av1", "crf": 64}, "encoding.crf: must be 0 to 63 for av1, got 64"),
        ({"crf": 20, "bitrate": "5M"}, "encoding.crf: give either this or bitrate, got 20"),
        (
            {"bitrate": "fast"},
            "encoding.bitrate: must be 10k to 1000M bits per second, such as 5000k or 5M, got 'fast'",
        ),
        ({"codec": "vp9"}, "encoding.codec: input should be 'h264', 'hevc' or 'av1', got 'vp9'"),
        (
            {"codec": "av1", "preset": "fast"},
            "encoding.preset: must be one of 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, ",
        ),
        ({"quality": 3}, "encoding.quality: there is no such field"),
        ("{", "encoding: must be a JSON object, got '{'"),
    ],
)
async def test_what_cannot_be_encoded(tmp_path: Path, odd: Path, encoding: object, message: str) -> None:
    async with open_shop(tmp_path) as shop:
        answer = await shop.order(odd, encoding=encoding)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid_parameter")
    assert error["message"].startswith(message)
    assert error["param"] == message.partition(":")[0]


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "wide.mp4", frames(4096, 16, 3), 25, LOSSLESS)


async def test_what_common_players_do_not_play_is_told_or_avoided(tmp_path: Path, wide: Path) -> None:
    async with open_shop(tmp_path) as shop:
        told = await shop.enlarge(wide, scale=4)
        avoided = await shop.enlarge(wide, scale=4, encoding={"large": "av1"})
        plain = await shop.enlarge(wide, scale=4, encoding={"codec": "hevc"})
        check_claims(avoided, await shop.fetch(avoided["id"]))
    assert told["facts"]["warning"] == (
        "16384x64 needs H.264 level 6.0, which browsers and hardware decoders do not play; ask for encoding.codec hevc "
        "or av1, or encoding.large"
    )
    assert (told["size"], told["codec"]) == ("16384x64", "h264")
    assert (avoided["size"], avoided["codec"], "warning" in avoided["facts"]) == ("16384x64", "av1", False)
    assert (plain["codec"], "warning" in plain["facts"]) == ("hevc", False)


async def test_a_failed_job_s_fragments_play_as_they_were_encoded(tmp_path: Path) -> None:
    odd = media.clip(tmp_path / "odd.mp4", frames(65, 49, 40), 25, LOSSLESS)
    async with open_shop(tmp_path, Enlarger(fails_at=30)) as shop:
        for codec, size in (("h264", (195, 147)), ("hevc", (196, 148)), ("av1", (195, 147))):
            video = await fail(shop, odd, codec)
            with av.open(io.BytesIO(await shop.fetch(video["id"])), "r") as container:
                shown = list(container.decode(video=0))
            assert [(frame.width, frame.height) for frame in shown] == [size] * 8
            assert video["size"] == f"{size[0]}x{size[1]}"


async def fail(shop: Shop, clip: Path, codec: str) -> dict[str, Any]:
    video = await shop.enlarge(clip, scale=3, encoding={"codec": codec})
    assert (video["status"], video["codec"], video["videos"]) == ("failed", None, {})
    return video
