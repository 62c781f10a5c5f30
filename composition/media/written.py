"""Reading the facts of a written video from its file."""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false

from fractions import Fraction
from pathlib import Path

import av
from pydantic import BaseModel


class VideoFacts(BaseModel):
    """The facts of a video, as a player finds them in its file."""

    size: str
    """`WIDTHxHEIGHT` in pixels."""
    frames: int
    """Number of frames."""
    rate: str
    """Frames per second as a fraction, such as `25` or `24000/1001`; the average if the frame rate is variable."""
    seconds: float
    """Duration in seconds."""
    codec: str
    """FFmpeg's name of the codec: `h264`, `hevc` or `av1`."""
    sound: str | None
    """FFmpeg's name of the codec of the sound; null if there is no sound."""

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, _, height = self.size.partition("x")
        return int(width), int(height)


def read_video_facts(path: Path) -> VideoFacts:
    """Read the facts of a progressive MP4 file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        duration = (stream.duration or 0) * (stream.time_base or Fraction(1))
        sound = next(iter(container.streams.audio), None)
        return VideoFacts(
            size=f"{stream.width}x{stream.height}",
            frames=stream.frames,
            rate=str(stream.average_rate or Fraction(0)),
            seconds=float(duration),
            codec=stream.codec_context.codec.canonical_name,
            sound=None if sound is None else sound.codec_context.codec.canonical_name,
        )
