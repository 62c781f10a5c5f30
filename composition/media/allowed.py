"""The kinds of files that are decoded by default: what cameras, telephones, browsers and editing programs make.

FFmpeg has 500 decoders. Those of old games and of formats that nobody uses any more are the least examined, and none of
them is reachable unless the configuration names it.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import StringConstraints

Container: TypeAlias = Literal[
    "mp4", "matroska", "avi", "mpegts", "png", "apng", "jpeg", "webp", "gif", "heif", "avif", "zip",
    "wav", "mp3", "ogg", "flac",
]  # fmt: skip
"""`mp4` includes MOV and 3GP, `matroska` WebM. None of them can refer to other files or to the network."""
CONTAINERS: tuple[Container, ...] = (
    "mp4", "matroska", "avi", "mpegts", "png", "apng", "jpeg", "webp", "gif", "heif", "avif", "zip",
    "wav", "mp3", "ogg", "flac",
)  # fmt: skip
Codec: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,31}$")]
"""FFmpeg's name of a codec, as `ffmpeg -codecs` lists it."""
VIDEO_CODECS: tuple[Codec, ...] = (
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "h263", "mjpeg",
    "prores", "dnxhd", "dvvideo", "ffv1", "qtrle", "rawvideo", "png", "apng", "gif", "webp",
)  # fmt: skip
SOUND_CODECS: tuple[Codec, ...] = (
    "aac", "aac_latm", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "dts", "amr_nb", "amr_wb",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le", "pcm_f32be",
    "pcm_f64le", "pcm_f64be", "pcm_u8", "pcm_s8", "pcm_mulaw", "pcm_alaw",
)  # fmt: skip
