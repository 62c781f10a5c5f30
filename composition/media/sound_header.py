"""A template of a stream of encoded sound, for muxing packets that this process never parses.

PyAV creates a stream for existing packets only from another stream. The template is the stream of a Matroska file
(RFC 9559) that has a header and no packets.
"""

import io
import struct
from collections.abc import Generator
from contextlib import contextmanager

import av
from av.audio.stream import AudioStream

from composition.media.sound_form import SoundForm

CODEC_IDS = {
    "aac": "A_AAC",
    "mp3": "A_MPEG/L3",
    "ac3": "A_AC3",
    "eac3": "A_EAC3",
    "alac": "A_ALAC",
    "opus": "A_OPUS",
    "flac": "A_FLAC",
}
"""FFmpeg's name of a codec → Matroska's."""
ALAC_BOX_BYTES = 12
"""Size of the head of the MP4 box that FFmpeg has before ALAC's configuration."""
NANOSECONDS = 1_000_000
"""Nanoseconds of a tick."""


@contextmanager
def open_template(form: SoundForm) -> Generator[AudioStream]:
    """Open a stream with the codec, the configuration, the rate and the channels of `form`, and no packets."""
    with av.open(io.BytesIO(write_header(form)), format="matroska") as container:
        yield container.streams.audio[0]


def write_header(form: SoundForm) -> bytes:
    """Return a Matroska file with one track and no packets."""
    configuration = form.configuration
    if form.codec == "alac":
        configuration = configuration[ALAC_BOX_BYTES:]
    elif form.codec == "flac":  # the signature, and the head of the last and only metadata block, STREAMINFO
        configuration = b"fLaC" + struct.pack(">I", 0x80 << 24 | len(configuration)) + configuration
    audio = _element("E1", _element("B5", struct.pack(">d", form.rate)) + _number("9F", form.channels))
    track = _number("D7", 1) + _number("73C5", 1) + _number("83", 2) + _element("86", CODEC_IDS[form.codec].encode())
    track += (_element("63A2", configuration) if configuration else b"") + audio
    segment = _element("1549A966", _number("2AD7B1", NANOSECONDS)) + _element("1654AE6B", _element("AE", track))
    segment += _element("1F43B675", _number("E7", 0))
    return _element("1A45DFA3", _element("4282", b"matroska")) + _element("18538067", segment)


def _element(identifier: str, content: bytes) -> bytes:
    return bytes.fromhex(identifier) + struct.pack(">Q", 1 << 56 | len(content)) + content


def _number(identifier: str, value: int) -> bytes:
    return _element(identifier, struct.pack(">Q", value))
