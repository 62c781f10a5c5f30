"""How a video is encoded: the settings of requests and configurations, and their limits."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.limits import parse_json_object

Codec: TypeAlias = Literal["h264", "hevc", "av1"]
Hardware: TypeAlias = Literal["never", "auto"]
"""`auto`: encode on a GPU (NVENC), where there is one that can."""

MAX_CRF: Mapping[Codec, int] = {"h264": 51, "hevc": 51, "av1": 63}
DEFAULT_CRF: Mapping[Codec, int] = {"h264": 18, "hevc": 20, "av1": 24}
"""Nearly always indistinguishable from the source."""
X26_PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
"""Presets of x264 and x265, the fastest first."""
PRESETS: Mapping[Codec, tuple[str, ...]] = {
    "h264": X26_PRESETS,
    "hevc": X26_PRESETS,
    "av1": tuple(str(preset) for preset in range(13, -1, -1)),
}
"""Codec → its presets, the fastest first."""
DEFAULT_PRESET: Mapping[Codec, str] = {"h264": "veryfast", "hevc": "veryfast", "av1": "8"}
MIN_BITRATE, MAX_BITRATE = 10_000, 1_000_000_000
"""In bits per second."""
FACTORS = {"k": 1_000, "M": 1_000_000}
"""Suffix of a bitrate → its factor."""


def _name_number(value: object) -> object:
    """Return a number as text, and any other value unchanged."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class Encoding(BaseModel):
    """How a video is encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    codec: Codec = "h264"
    """H.264 plays everywhere and is the fastest. HEVC and AV1 also play beyond 4096x2304, in newer players."""
    bitrate: Annotated[str, BeforeValidator(_name_number)] | None = None
    """Average rate instead of a constant quality, in bits per second: `5000k`, `5M` or `5000000`. Each segment of 8 or
    32 frames is encoded several times to come near it. A segment that needs less at the best quality takes less."""
    crf: int | None = None
    """Constant quality (constant rate factor); smaller is better: 0 to 51 for H.264 (by default 18) and HEVC (20), 0 to
    63 for AV1 (24). Not together with `bitrate`."""
    preset: Annotated[str, BeforeValidator(_name_number)] | None = None
    """Speed of the encoder, at the expense of size: `ultrafast` to `placebo` for H.264 and HEVC (by default
    `veryfast`), 13 (fastest) to 0 for AV1 (8)."""
    large: Literal["warn", "hevc", "av1"] = "warn"
    """What happens to H.264 beyond level 5.2 or 4096x2304 pixels, which browsers and hardware decoders do not play:
    `warn` adds the fact `warning`, `hevc` and `av1` encode with this codec instead."""

    @field_validator("bitrate")
    @classmethod
    def _check_bitrate(cls, value: str | None) -> str | None:
        if value is None:
            return None
        bits = _parse_bitrate(value)
        if bits is None or not MIN_BITRATE <= bits <= MAX_BITRATE:
            limits = f"{MIN_BITRATE // 1_000}k to {MAX_BITRATE // 1_000_000}M"
            raise PydanticCustomError(
                "bitrate", "must be {limits} bits per second, such as 5000k or 5M", {"limits": limits}
            )
        return value

    @field_validator("crf")
    @classmethod
    def _check_crf(cls, value: int | None, info: ValidationInfo) -> int | None:
        codec = cast("Codec | None", info.data.get("codec"))
        bitrate = cast("str | None", info.data.get("bitrate"))
        if codec is None or value is None:
            return None if codec is None or bitrate is not None else DEFAULT_CRF[codec]
        if bitrate is not None:
            raise PydanticCustomError("crf", "give either this or bitrate")
        if not 0 <= value <= MAX_CRF[codec]:
            raise PydanticCustomError(
                "crf", "must be 0 to {most} for {codec}", {"most": MAX_CRF[codec], "codec": codec}
            )
        return value

    @field_validator("preset")
    @classmethod
    def _check_preset(cls, value: str | None, info: ValidationInfo) -> str | None:
        codec = cast("Codec | None", info.data.get("codec"))
        if codec is None or value is None:
            return None if codec is None else DEFAULT_PRESET[codec]
        if value not in PRESETS[codec]:
            known = ", ".join(PRESETS[codec])
            raise PydanticCustomError("preset", "must be one of {known} for {codec}", {"known": known, "codec": codec})
        return value

    @property
    def bits_per_second(self) -> int | None:
        """The average rate; None for a constant quality."""
        return None if self.bitrate is None else _parse_bitrate(self.bitrate)

    def change_codec(self, codec: Codec) -> "Encoding":
        """Return these settings for another codec, with its default quality and preset; a bitrate is kept."""
        return Encoding(codec=codec, bitrate=self.bitrate, large=self.large)


DEFAULT_ENCODING = Encoding()


def _parse_bitrate(text: str) -> int | None:
    """Return bits per second; None if the text is not a positive number with an optional `k` or `M`."""
    factor = FACTORS.get(text[-1:], 1)
    number = text[:-1] if text[-1:] in FACTORS else text
    if not (number.isascii() and number.replace(".", "", 1).isdigit() and len(number) <= 12):
        return None
    return round(float(number) * factor)


def complete_encoding(defaults: Mapping[str, Any], given: object) -> object:
    """Return the fields `encoding` of a request, completed by configured ones that fit.

    Quality and preset of another codec are not taken over, and of `crf` and `bitrate` only one.

    Args:
        defaults: the configured fields.
        given: the fields of the request, or their JSON; what is not an object is returned as it is.
    """
    try:
        parsed = parse_json_object(given)
    except ValueError:  # reported when the field is validated
        return given
    if not isinstance(parsed, Mapping):
        return given
    fields = {name: value for name, value in cast("Mapping[str, Any]", parsed).items() if value is not None}
    kept = {name: value for name, value in defaults.items() if value is not None}
    if fields.get("codec", kept.get("codec", "h264")) != kept.get("codec", "h264"):
        kept = {name: value for name, value in kept.items() if name not in ("crf", "preset")}
    if "crf" in fields or "bitrate" in fields:
        kept = {name: value for name, value in kept.items() if name not in ("crf", "bitrate")}
    return {**kept, **fields}
