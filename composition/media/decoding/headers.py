"""Reading the first bytes of a file before FFmpeg opens it, and the limits that it must keep."""

import codecs
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from composition.media.confinement.status import ConfinementPolicy
from composition.media.cost import LIBRARY_BYTES, MIB, Cost
from services.errors import LimitExceeded, UndecodableMedia

HEAD_BYTES = 1 << 16
"""Bytes read from the beginning of a file."""
HEIF_STILLS = frozenset({b"mif1", b"mif2", b"heic", b"heix", b"heim", b"heis", b"avif", b"miaf"})
"""Major brands of still pictures in HEIF (ISO/IEC 23008-12)."""
HEIF_SEQUENCES = frozenset({b"msf1", b"hevc", b"hevx", b"avis"})
"""Major brands of image sequences in HEIF."""
JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""First bytes of JPEG XL: of a codestream, and of a container."""
WEBP_ANIMATED = 0x02
"""Flag of an animated WebP, in its first chunk."""
MATROSKA_SIGNATURE = b"\x1a\x45\xdf\xa3"
ZIP_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""First bytes of a zip archive: with files, empty, and split."""


def take_what_is_there(_cost: Cost) -> None:
    """Reserve nothing: outside of a decoder process there is no limit."""


@dataclass(frozen=True)
class Limits:
    """`composition.media.limits.MediaLimits` without pydantic, whose import would double a decoder's start time."""

    max_pixels: int
    max_side: int
    min_side: int
    max_frames: int
    max_duration_s: float
    deadline_s: float
    turn_wait_s: float
    memory_bytes: int
    node_memory_bytes: int | None
    node_memory_threshold: float
    node_memory_folder: str | None
    node_memory_wait_s: float
    cpu_s: float
    background: str
    confinement: ConfinementPolicy
    containers: Sequence[str]
    video_codecs: Sequence[str]
    sound_codecs: Sequence[str]
    protocols: Sequence[str]
    reserve: Callable[[Cost], None] = take_what_is_there
    """Reserves what a file costs; returns when it may be decoded."""

    def require(self, cost: Cost) -> None:
        """Check and reserve what a file costs, before it is decoded. Raises LimitExceeded."""
        if cost.cpu_s > self.cpu_s:
            raise LimitExceeded(
                f"decoding takes about {cost.cpu_s:.0f} s of processor time or more: {cost.reason}; "
                f"the limit is {self.cpu_s:g} s (cpu_s)"
            )
        memory_bytes = cost.memory_bytes + LIBRARY_BYTES
        if memory_bytes > self.memory_bytes:
            raise LimitExceeded(
                f"decoding needs about {memory_bytes // MIB} MiB of memory: {cost.reason}; "
                f"the limit is {self.memory_bytes // MIB} MiB (memory_bytes)"
            )
        self.reserve(cost)

    def check_container(self, name: str) -> None:
        """Raise UndecodableMedia unless files of this format may be opened."""
        if name not in self.containers:
            allowed = ", ".join(self.containers)
            raise UndecodableMedia(f"the format {name} is not allowed here; allowed are {allowed} (media.containers)")

    def check_video_codec(self, name: str) -> None:
        """Raise UndecodableMedia unless videos and pictures of this codec may be decoded."""
        if name not in self.video_codecs:
            allowed = ", ".join(self.video_codecs)
            raise UndecodableMedia(f"the codec {name} is not allowed here; allowed are {allowed} (media.video_codecs)")

    def check_sound_codec(self, name: str) -> None:
        """Raise UndecodableMedia unless sound of this codec may be decoded. The message has no name for the sound."""
        if name not in self.sound_codecs:
            allowed = ", ".join(self.sound_codecs)
            raise UndecodableMedia(f"its codec {name} is not allowed here; allowed are {allowed} (media.sound_codecs)")

    def check_size(self, width: int, height: int) -> None:
        """Raise LimitExceeded unless a size in pixels is within the limits."""
        size = f"the size is {width}x{height} pixels"
        if max(width, height) > self.max_side:
            raise LimitExceeded(f"{size}; the limit for a side is {self.max_side} (max_side)")
        if min(width, height) < self.min_side:
            raise LimitExceeded(f"{size}; the minimum for a side is {self.min_side} (min_side)")
        if width * height > self.max_pixels:
            raise LimitExceeded(f"{size}, {width * height} in total; the limit is {self.max_pixels} (max_pixels)")

    def check_length(self, frames: int, duration_s: float, source: str) -> None:
        """Raise LimitExceeded unless the length is within the limits. The message has `source` after the number."""
        if frames > self.max_frames:
            raise LimitExceeded(f"the video has {frames} frames {source}; the limit is {self.max_frames} (max_frames)")
        if duration_s > self.max_duration_s:
            raise LimitExceeded(
                f"the duration is {duration_s:.1f} s {source}; the limit is {self.max_duration_s:g} s (max_duration_s)"
            )


Library = Literal["heif", "avif", "webp"]
"""Libraries that decode what FFmpeg cannot: libheif, libavif, and libwebp for animations."""


@dataclass(frozen=True)
class Header:
    """Properties read from the first bytes of a file."""

    size: tuple[int, int] | None = None
    """Width and height in pixels, for formats whose size FFmpeg reports only after decoding."""
    picture_format: str | None = None
    """FFmpeg's name of the picture format; None for videos, and for what may be one: GIF, APNG, HEIF, WebP."""
    animation_format: str | None = None
    """FFmpeg's name of the format of an animation that it takes for a picture."""
    frames: int | None = None
    """Declared number of frames of an animation."""
    library: Library | None = None
    """The library that decodes the file; None for FFmpeg."""
    is_sequence: bool = False
    """Whether the file is an image sequence in HEIF, which is read as a video."""
    container: str | None = None
    """Name of the format, as in `Limits.containers`; None if the first bytes do not tell."""

    @property
    def may_be_picture(self) -> bool:
        """Whether the file is a picture, or an animation that may have one frame only."""
        return any((self.picture_format, self.animation_format, self.library, self.is_sequence))


def read_head(source: str | bytes) -> bytes:
    """Return the first bytes of a file, given by its path or content."""
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with Path(source).open("rb") as file:
        return file.read(HEAD_BYTES)


def read_header(head: bytes) -> Header:
    """Read the first bytes of a file. Raises UndecodableMedia for JPEG XL."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _read_png_header(head)
    if is_gif(head):
        width, height = struct.unpack("<HH", head[6:10].ljust(4, b"\0"))
        return Header((width, height), animation_format="gif", container="gif")
    if head.startswith(b"\xff\xd8\xff"):
        return Header(None, "jpeg_pipe", container="jpeg")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _read_webp_size(head.ljust(30, b"\0"))
        is_animated = head[12:16] == b"VP8X" and bool(head[20] & WEBP_ANIMATED)
        if is_animated:
            return Header(size, library="webp", container="webp")
        return Header(size, "webp_pipe", container="webp")
    if head.startswith(JPEG_XL):
        raise UndecodableMedia("JPEG XL is not supported; send the picture as PNG, JPEG, WebP, HEIC or AVIF")
    return _read_heif_header(head)


def _read_png_header(head: bytes) -> Header:
    size = struct.unpack(">II", head[16:24].ljust(8, b"\0"))
    at = 8
    while at + 8 <= len(head):
        length, kind = struct.unpack_from(">I4s", head, at)
        if kind == b"acTL" and at + 12 <= len(head):
            (frames,) = struct.unpack_from(">I", head, at + 8)
            if frames > 1:
                return Header(size, animation_format="apng", frames=frames, container="apng")
            break
        if kind == b"IDAT":
            break
        at += length + 12
    return Header(size, "png_pipe", container="png")


def _read_heif_header(head: bytes) -> Header:
    """Return the library for a still picture in HEIF; for all other files FFmpeg."""
    if head[4:8] != b"ftyp" or head[8:12] not in HEIF_STILLS:
        is_sequence = head[4:8] == b"ftyp" and head[8:12] in HEIF_SEQUENCES
        return Header(is_sequence=is_sequence, container=name_video_container(head))
    size = min(struct.unpack(">I", head[:4])[0], len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))}
    library: Library = "avif" if b"avif" in brands else "heif"
    return Header(library=library, container=library)


def name_video_container(head: bytes) -> str | None:
    """Return the name of the format of a video, a sequence in HEIF or a zip archive; None if it is none of them.

    FFmpeg recognises formats by itself: this tells which one an error is about.
    """
    if head[4:8] == b"ftyp":
        return {b"avis": "avif"}.get(head[8:12], "heif" if head[8:12] in HEIF_SEQUENCES else "mp4")
    if head.startswith(MATROSKA_SIGNATURE):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WAVE"):
        return "avi" if head[8:12] == b"AVI " else "wav"
    signatures = {b"OggS": "ogg", b"fLaC": "flac", b"ID3": "mp3", **dict.fromkeys(ZIP_SIGNATURES, "zip")}
    return next((name for signature, name in signatures.items() if head.startswith(signature)), None)


def _read_webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height in pixels (RFC 9649)."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", head[26:30])
    return width & 0x3FFF, height & 0x3FFF


def is_gif(head: bytes) -> bool:
    return head.startswith(b"GIF8")


def is_zip(head: bytes) -> bool:
    return head.startswith(ZIP_SIGNATURES)


def explain_unreadable(head: bytes) -> str:
    """Explain, from the first bytes of a file, why FFmpeg cannot open it."""
    if not head:
        return "the file is empty"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "the MP4 index (moov box) is missing or damaged: the file is truncated or was never finished"
    if _is_text(head):
        return "the file is text, not a video or picture"
    return (
        "the format must be one of MP4, MOV, WebM, MKV, AVI, TS, PNG, JPEG, WebP, HEIC, AVIF, GIF, zip;"
        " the file is none of them"
    )


def explain_not_a_picture(head: bytes) -> str:
    """Explain, from the first bytes of a file, why it is no picture."""
    if not head:
        return "the file is empty"
    if _is_text(head):
        return "the file is text, not a picture"
    return "the format must be one of PNG, JPEG, WebP, HEIC, AVIF, still GIF; the file is none of them"


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
