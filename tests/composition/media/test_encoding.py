"""The settings of encoding, and which of them complete which."""

from typing import Any

import pytest

from composition.media.encoding import Encoding, complete_encoding


@pytest.mark.parametrize(
    ("given", "crf", "preset", "bits"),
    [
        ({}, 18, "veryfast", None),
        ({"codec": "hevc"}, 20, "veryfast", None),
        ({"codec": "av1"}, 24, "8", None),
        ({"codec": "av1", "preset": 0, "crf": 63}, 63, "0", None),
        ({"crf": 0}, 0, "veryfast", None),
        ({"bitrate": "5000k"}, None, "veryfast", 5_000_000),
        ({"bitrate": "2.5M"}, None, "veryfast", 2_500_000),
        ({"bitrate": 800_000, "codec": "av1"}, None, "8", 800_000),
    ],
)
def test_what_is_not_given_is_completed(given: dict[str, Any], crf: int | None, preset: str, bits: int | None) -> None:
    encoding = Encoding.model_validate(given)
    assert (encoding.crf, encoding.preset, encoding.bits_per_second) == (crf, preset, bits)
    assert Encoding.model_validate(encoding.model_dump(mode="json")) == encoding


@pytest.mark.parametrize("bitrate", ["", "k", "5e3", "-5M", "5 M", "9k", "1001M", "nan", "٥M", "1" * 40])
def test_what_is_no_bitrate(bitrate: str) -> None:
    with pytest.raises(ValueError, match="must be 10k to 1000M bits per second"):
        Encoding(bitrate=bitrate)


@pytest.mark.parametrize(
    ("configured", "given", "completed"),
    [
        ({"codec": "hevc", "crf": 30}, {}, {"codec": "hevc", "crf": 30}),
        ({"codec": "hevc", "crf": 30}, {"crf": 20}, {"codec": "hevc", "crf": 20}),
        ({"crf": 30, "preset": "slow"}, {"codec": "av1"}, {"codec": "av1"}),
        ({"crf": 30, "preset": "slow"}, {"codec": "h264"}, {"codec": "h264", "crf": 30, "preset": "slow"}),
        ({"codec": "av1", "bitrate": "1M"}, {"codec": "hevc"}, {"codec": "hevc", "bitrate": "1M"}),
        ({"bitrate": "1M", "large": "av1"}, {"crf": 20}, {"crf": 20, "large": "av1"}),
        ({"crf": 20}, '{"bitrate": "1M"}', {"bitrate": "1M"}),
        ({"crf": 20}, {"crf": None, "bitrate": None, "preset": "slow"}, {"crf": 20, "preset": "slow"}),
        ({"crf": 20}, "{", "{"),
        ({"crf": 20}, 7, 7),
    ],
)
def test_a_request_completes_what_is_configured(configured: dict[str, Any], given: object, completed: object) -> None:
    assert complete_encoding(configured, given) == completed


def test_another_codec_has_its_own_quality_and_the_same_bitrate() -> None:
    assert Encoding(crf=30, preset="slow").change_codec("av1") == Encoding(codec="av1")
    assert Encoding(bitrate="1M").change_codec("hevc") == Encoding(codec="hevc", bitrate="1M")
