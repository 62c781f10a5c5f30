"""The form of sound that a decoder process sends: packets that can be copied, or decoded samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.errors import UndecodableMedia

COPIED = frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"})
"""FFmpeg's names of the codecs that MP4 files hold."""
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
"""Number of channels of decoded sound → FFmpeg's name of their layout."""
MAX_CONFIGURATION = 4096
"""Size of a codec's configuration in bytes."""
MAX_CHANNELS = 64
MAX_RATE = 768_000
"""Samples per second."""
MAX_SAMPLES = 1 << 20
"""Samples of a packet."""
Samples: TypeAlias = NDArray[np.int16]
"""(samples, channels) int16."""
MALFORMED = "the decoder crashed on the sound"


class UnfitForCopying(Exception):
    """The packets of a track cannot be copied. `reason` says why; it is empty if MP4 does not hold the codec."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SoundForm:
    """Properties of a track of sound. Times are in samples, from when the first frame of the file's video is shown."""

    codec: str
    """FFmpeg's name of the codec of the file's track."""
    rate: int
    """Samples per second."""
    channels: int
    start: int
    """When the first audible sample is played; negative if it is played before the first frame."""
    skip: int = 0
    """Number of samples at the beginning that are decoded and not played."""
    configuration: bytes = b""
    """The codec's configuration, FFmpeg's `extradata`."""


@dataclass(frozen=True)
class SoundChunk:
    """A piece of sound: consecutive packets, or samples, (n, channels) int16."""

    data: bytes
    sizes: Sequence[tuple[int, int]] = ()
    """Number of samples and of bytes of each packet."""
    damaged: int = 0
    """Number of damaged packets in the whole track, in its last chunk."""


def parse_form(answer: Mapping[str, Any]) -> SoundForm:
    """Return the form in an answer of a decoder process, which is not trusted. Raises UndecodableMedia."""
    try:
        form = SoundForm(
            codec=str(answer["codec"]),
            rate=int(answer["rate"]),
            channels=int(answer["channels"]),
            start=int(answer["start"]),
            skip=int(answer.get("skip", 0)),
            configuration=bytes.fromhex(answer.get("extradata", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UndecodableMedia(MALFORMED) from error
    usable = 0 < form.rate <= MAX_RATE and 0 < form.channels <= MAX_CHANNELS and 0 <= form.skip <= MAX_SAMPLES
    if not usable or len(form.configuration) > MAX_CONFIGURATION:
        raise UndecodableMedia(MALFORMED)
    return form


def parse_chunk(answer: Mapping[str, Any], data: bytes) -> SoundChunk:
    """Return the chunk in an answer of a decoder process, which is not trusted. Raises UndecodableMedia."""
    try:
        sizes = [(int(samples), int(count)) for samples, count in answer.get("packets", [])]
        damaged = int(answer.get("damaged", 0))
    except (TypeError, ValueError) as error:
        raise UndecodableMedia(MALFORMED) from error
    fits = all(0 < samples <= MAX_SAMPLES and count > 0 for samples, count in sizes)
    if not fits or (sizes and sum(count for _, count in sizes) != len(data)):
        raise UndecodableMedia(MALFORMED)
    return SoundChunk(data, sizes, damaged)


def parse_samples(data: bytes, channels: int) -> Samples:
    """Return the samples in a chunk of a decoder process, which is not trusted. Raises UndecodableMedia."""
    if len(data) % (2 * channels):
        raise UndecodableMedia(MALFORMED)
    return np.frombuffer(data, np.int16).reshape(-1, channels)
