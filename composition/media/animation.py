"""Writing frames as an animated GIF, an animated WebP, or a zip archive of PNG files, one frame in memory at a time.

Writers block; async callers run them in a thread.
"""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, sqrt
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, cast

import av
import numpy as np
from av.error import BlockingIOError as NeedsInput
from av.error import EOFError as EndOfStream
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from composition.media.encode_picture import encode_picture
from services.frames import Pixels

AnimationFormat: TypeAlias = Literal["gif", "webp", "png"]
"""File format of a video as pictures; `png` is a zip archive of PNG files."""

GIF_UNIT = Fraction(1, 100)
"""Unit of GIF's delays, in seconds."""
PALETTE_PIXELS = 16_000_000
"""Maximum number of pixels that a palette is computed from; of longer and larger videos, every n-th row and column."""
PALETTE_SIDE = 16
"""A palette is a picture of 16 x 16 pixels."""
WEBP_QUALITY = 90
"""Quality of the frames of an animated WebP, from 0 to 100."""
WEBP_ANIMATION, WEBP_REPLACE = 0x02, 0x02
"""Flags in VP8X: the file is an animation; in ANMF: the frame replaces the one before it and is not blended with it."""


@dataclass(frozen=True)
class Timing:
    """How a format states when a frame is shown."""

    unit: Fraction
    """Unit of a frame's duration, in seconds."""
    shortest: int
    """Minimum duration of a frame, in units. Browsers show shorter frames for 100 ms."""


TIMINGS: Mapping[AnimationFormat, Timing] = {"gif": Timing(GIF_UNIT, 2), "webp": Timing(Fraction(1, 1000), 11)}
"""Formats that state durations."""
MAX_SIDES: Mapping[AnimationFormat, int] = {"gif": 65535, "webp": 16383, "png": 65535}
"""Maximum width and height of a format, in pixels."""


@dataclass(frozen=True)
class Tick:
    """When a frame is shown, in units of a format."""

    frame: int
    """Index of the frame."""
    start: int
    """Time from the beginning of the animation."""
    duration: int


def choose_ticks(times: Sequence[Fraction], timing: Timing) -> list[Tick]:
    """Return the frames to write, with their times rounded to a format's units.

    Times are rounded from the beginning, so that rounding errors do not add up. A frame that would be shown for less
    than the format's minimum is left out, and the one before it is shown for its time as well.

    Args:
        times: when each frame appears and when the last one disappears, in seconds: one more than there are frames.
        timing: of the format.
    """
    ticks = [round((time - times[0]) / timing.unit) for time in times]
    kept = [0]
    for index in range(1, len(ticks) - 1):
        if ticks[index] - ticks[kept[-1]] >= timing.shortest:
            kept.append(index)
    stop = ticks[-1]
    if len(kept) > 1 and stop - ticks[kept[-1]] < timing.shortest:
        kept.pop()
    stops = [*(ticks[index] for index in kept[1:]), max(stop, ticks[kept[-1]] + timing.shortest)]
    return [Tick(index, ticks[index], stop - ticks[index]) for index, stop in zip(kept, stops, strict=True)]


class Writer(Protocol):
    """Writes an animation to a file, which is complete when `close` returns."""

    def write(self, pixels: Pixels, tick: Tick) -> None:
        """Add the next frame, (h, w, 3) uint8 RGB."""
        ...

    def close(self) -> None:
        """Complete the file."""
        ...


class PaletteBuilder:
    """Computes the 256 colours that show a clip best.

    Args:
        width, height: size of the frames in pixels.
        frames: number of frames.
    """

    def __init__(self, width: int, height: int, frames: int) -> None:
        self._step = ceil(sqrt(max(1.0, width * height * frames / PALETTE_PIXELS)))
        graph = Graph()
        self._source = _add_source(graph, ceil(width / self._step), ceil(height / self._step), "rgb24")
        generator, self._sink = graph.add("palettegen", "stats_mode=full"), graph.add("buffersink")
        self._source.link_to(generator)
        generator.link_to(self._sink)
        graph.configure()
        self._graph = graph
        self._count = 0

    def add(self, pixels: Pixels) -> None:
        """Count the colours of a frame, (h, w, 3) uint8 RGB."""
        self._source.push(_wrap_frame(pixels[:: self._step, :: self._step], self._count))
        self._count += 1

    def build(self) -> VideoFrame:
        """Return the palette, 16 x 16 pixels."""
        self._source.push(None)
        return cast("VideoFrame", self._sink.pull())


class GifWriter:
    """Writes an animated GIF that loops forever.

    Args:
        target: the file.
        width, height: size of the frames in pixels.
        palette: colours of the clip.
        last: duration of the last frame, in hundredths of a second.
    """

    def __init__(self, target: Path, size: tuple[int, int], palette: VideoFrame, last: int) -> None:
        options = {"loop": "0", "final_delay": str(last)}
        self._container = av.open(str(target), "w", format="gif", container_options=options)
        self._stream = self._container.add_stream("gif", rate=int(1 / GIF_UNIT))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "pal8"
        self._stream.codec_context.time_base = GIF_UNIT
        graph = Graph()
        self._source = _add_source(graph, *size, "rgb24")
        colours = _add_source(graph, PALETTE_SIDE, PALETTE_SIDE, palette.format.name)
        mapper, self._sink = graph.add("paletteuse", "diff_mode=rectangle"), graph.add("buffersink")
        self._source.link_to(mapper, 0, 0)
        colours.link_to(mapper, 0, 1)
        mapper.link_to(self._sink)
        graph.configure()
        self._graph = graph
        palette.pts, palette.time_base = 0, GIF_UNIT
        colours.push(palette)
        colours.push(None)

    def write(self, pixels: Pixels, tick: Tick) -> None:
        self._source.push(_wrap_frame(pixels, tick.start))
        self._encode_mapped()

    def close(self) -> None:
        self._source.push(None)
        self._encode_mapped()
        self._container.mux(self._stream.encode())
        self._container.close()

    def _encode_mapped(self) -> None:
        """Encode the frames that the filters have finished."""
        while True:
            try:
                frame = self._sink.pull()
            except (NeedsInput, EndOfStream):
                return
            self._container.mux(self._stream.encode(cast("VideoFrame", frame)))


class WebpWriter:
    """Writes an animated WebP that loops forever. Each frame is complete in itself.

    Source: https://developers.google.com/speed/webp/docs/riff_container

    Args:
        target: the file.
        width, height: size of the frames in pixels.
    """

    def __init__(self, target: Path, size: tuple[int, int]) -> None:
        self._size = b"".join(struct.pack("<I", side - 1)[:3] for side in size)
        self._file = target.open("wb")
        self._file.write(b"RIFF\0\0\0\0WEBP")
        self._write_chunk(b"VP8X", bytes([WEBP_ANIMATION, 0, 0, 0]) + self._size)
        background, loops = 0xFFFFFFFF, 0
        self._write_chunk(b"ANIM", struct.pack("<IH", background, loops))

    def write(self, pixels: Pixels, tick: Tick) -> None:
        _, picture = encode_picture(pixels, "webp", WEBP_QUALITY).split(b"WEBP", 1)
        duration = struct.pack("<I", tick.duration)[:3]
        self._write_chunk(b"ANMF", bytes(6) + self._size + duration + bytes([WEBP_REPLACE]) + picture)

    def close(self) -> None:
        size = self._file.tell() - 8
        self._file.seek(4)
        self._file.write(struct.pack("<I", size))
        self._file.close()

    def _write_chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2))


class PngWriter:
    """Writes a zip archive of PNG files called 000000.png, 000001.png and so on.

    Args:
        target: the file.
    """

    def __init__(self, target: Path) -> None:
        self._archive = zipfile.ZipFile(target, "w")

    def write(self, pixels: Pixels, tick: Tick) -> None:
        self._archive.writestr(zipfile.ZipInfo(f"{tick.frame:06d}.png"), encode_picture(pixels, "png"))

    def close(self) -> None:
        self._archive.close()


def _add_source(graph: Graph, width: int, height: int, pixel_format: str) -> FilterContext:
    layout = VideoFormat(pixel_format, width, height)
    return graph.add_buffer(width=width, height=height, format=layout, time_base=GIF_UNIT)


def _wrap_frame(pixels: Pixels, pts: int) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.pts, frame.time_base = pts, GIF_UNIT
    return frame
