"""Choosing how a video of a job is encoded, and what its record says about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from composition.media.encode import SegmentEncoder
from composition.media.encoders import MAX_SIDES, SOFTWARE, choose_encoder
from composition.media.encoding import Encoding, Hardware
from composition.media.mp4 import read_avc_level
from services.frames import JsonValue

MAX_LEVEL = 52
"""Ten times the highest level of H.264 that browsers and hardware decoders play."""
MAX_LONG, MAX_SHORT = 4096, 2304
"""Largest sides of H.264 that they play, in pixels."""


@dataclass(frozen=True)
class VideoFormat:
    """The properties of a video that decide about its encoding."""

    width: int
    height: int
    rate: Fraction
    """Frames per second; a typical one if the frame rate is variable."""
    variable: bool
    """Whether the frame rate is variable."""
    total_frames: int | None
    """Number of frames, if known."""


@dataclass(frozen=True)
class Choice:
    """An encoder for a video."""

    encoder: SegmentEncoder
    init: bytes
    """The initialisation segment."""
    facts: Mapping[str, JsonValue]
    """What the record of the job says about it: `encoder`, `padded`, `warning`."""


def choose_segment_encoder(
    video: VideoFormat, encoding: Encoding, hardware: Hardware = "never", begun: str | None = None
) -> Choice:
    """Return the encoder for a video.

    Args:
        video: the properties of the video.
        encoding: the job's settings.
        hardware: whether NVENC is used where it is available.
        begun: FFmpeg's name of the encoder with which an earlier attempt began the video.

    Raises:
        LimitExceeded: the frames are larger than the encoder takes.
        ServiceLost: the video was begun with an encoder that this machine does not have.
    """
    size = video.width, video.height
    fits = all(side <= most for side, most in zip(size, MAX_SIDES[encoding.codec], strict=True))
    if not fits and encoding.codec == "h264" and encoding.large != "warn":
        encoding = encoding.change_codec(encoding.large)
    encoder = choose_encoder(encoding, size, hardware, begun)
    segments = SegmentEncoder(
        *size, video.rate, total_frames=video.total_frames, encoder=encoder, variable=video.variable
    )
    init = segments.encode_init()
    warning = _describe_unplayable(size, read_avc_level(init))
    if warning and encoding.large != "warn":
        return choose_segment_encoder(video, encoding.change_codec(encoding.large), hardware, begun)
    facts: dict[str, JsonValue] = {}
    if encoder.name != SOFTWARE[encoder.codec]:
        facts["encoder"] = encoder.name
    if segments.size != size:
        facts["padded"] = f"{size[0]}x{size[1]} to {segments.size[0]}x{segments.size[1]}"
    if warning:
        facts["warning"] = warning
    return Choice(segments, init, facts)


def _describe_unplayable(size: tuple[int, int], level: int | None) -> str:
    """Return why common players do not play a video; empty if they do.

    Args:
        size: width and height in pixels.
        level: ten times the level of H.264; None for another codec.
    """
    if level is None:
        return ""
    what = ""
    if level > MAX_LEVEL:
        what = f"needs H.264 level {level / 10}"
    elif max(size) > MAX_LONG or min(size) > MAX_SHORT:
        what = f"is larger than {MAX_LONG}x{MAX_SHORT} in H.264"
    if not what:
        return ""
    return (
        f"{size[0]}x{size[1]} {what}, which browsers and hardware decoders do not play; ask for encoding.codec hevc or "
        "av1, or encoding.large"
    )
