"""The lists of what may be decoded, in the form that FFmpeg takes.

Runs only in decoder processes (`composition.media.decoding.worker`).
"""

from collections.abc import Iterable
from functools import cache
from typing import cast

from av.codec import Codec
from av.container import InputContainer
from av.stream import Stream

from composition.media.decoding.headers import Limits

DECODERS = {
    "av1": ("libdav1d", "libaom-av1", "av1"),
    "vp8": ("vp8", "libvpx"),
    "vp9": ("vp9", "libvpx-vp9"),
    "mp2": ("mp2", "mp2float"),
    "mp3": ("mp3", "mp3float"),
    "opus": ("opus", "libopus"),
    "vorbis": ("vorbis", "libvorbis"),
    "amr_nb": ("amrnb", "libopencore_amrnb"),
    "amr_wb": ("amrwb", "libopencore_amrwb"),
}
"""Codec → FFmpeg's names of its decoders in software, where there may be several."""
FORMATS = {"mp4": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}
"""Container → FFmpeg's name of the format, where it is another one."""
VIDEO_CONTAINERS = ("mp4", "matroska", "avi", "mpegts")
SOUND_CONTAINERS = ("mp4", "matroska", "wav", "mp3", "ogg", "flac")


def list_formats(containers: Iterable[str], limits: Limits) -> str:
    """Return FFmpeg's names of those of some containers that are allowed, separated by commas.

    Raises UndecodableMedia if none is.
    """
    names = [name for name in containers if name in limits.containers]
    if not names:
        limits.check_container(next(iter(containers)))
    return ",".join(FORMATS.get(name, name) for name in names)


def list_decoders(limits: Limits) -> str:
    """Return FFmpeg's names of the decoders of all allowed codecs, separated by commas."""
    return _list_decoders((*limits.video_codecs, *limits.sound_codecs))


@cache
def _list_decoders(codecs: tuple[str, ...]) -> str:
    return ",".join(name for codec in codecs for name in DECODERS.get(codec) or _find_decoder(codec))


def _find_decoder(codec: str) -> tuple[str, ...]:
    """Return FFmpeg's name of the decoder of a codec; nothing if this FFmpeg has none."""
    try:
        return (Codec(codec, "r").name,)
    except ValueError:  # PyAV's UnknownCodecError is one
        return ()


def has_only_allowed(container: InputContainer, limits: Limits) -> bool:
    """Whether all tracks of pictures and sound are of allowed codecs, so that another reader decodes no other one."""
    allowed = {*limits.video_codecs, *limits.sound_codecs}
    tracks = (*container.streams.video, *container.streams.audio)
    return all(is_decodable(track) and track.codec.canonical_name in allowed for track in tracks)


def is_decodable(stream: Stream) -> bool:
    """Whether FFmpeg has a decoder for the track."""
    return cast("object", stream.codec_context) is not None
