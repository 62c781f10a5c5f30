"""Interlaced and telecined sample files: the fields of a film, woven into frames and encoded."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from services.frames import Pixels
from tests.composition.cards import draw_card

NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)
Order = Literal["tff", "bff", "prog"]
X264 = {"crf": "4", "preset": "ultrafast"}
FIELDS = {"flags": "+ilme+ildct"}
TFF, BFF = {**X264, **FIELDS, "x264-params": "tff=1"}, {**X264, **FIELDS, "x264-params": "bff=1"}


@dataclass(frozen=True)
class Recording:
    """How fields are recorded in a file."""

    name: str
    """File name."""
    order: Order = "tff"
    """Which field of a frame is the earlier one."""
    flag: Order | None = None
    """The order that the file claims; by default the true one."""
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: TFF)
    pix_fmt: str = "yuv420p"
    size: tuple[int, int] = (96, 64)


def draw_film(count: int, width: int = 96, height: int = 64, hold: int = 2) -> list[Pixels]:
    """Return pictures of a card with a white bar that moves across its lower quarter; its number is index // `hold`."""
    step = max(4, width // 16)
    film: list[Pixels] = []
    for index in range(count):
        picture = draw_card(index // hold % 64, width, height)
        left = index * step % width
        picture[height * 3 // 4 :, left : left + width // 8] = 255
        film.append(picture)
    return film


def interlace(film: Sequence[Pixels], order: Order, pix_fmt: str = "yuv420p") -> list[VideoFrame]:
    """Return frames of two fields from consecutive pictures."""
    pairs = list(zip(film[::2], film[1::2], strict=True))
    return [_weave(pair, order, pix_fmt) for pair in pairs]


def telecine(
    film: Sequence[Pixels], count: int, order: Order = "tff", phase: int = 0, pulldown: Sequence[int] = (3, 2)
) -> list[VideoFrame]:
    """Return `count` frames of the pictures shown for 3, 2, 3, 2 … fields, without the first `phase` frames."""
    fields = [picture for n, picture in enumerate(film) for _ in range(pulldown[n % len(pulldown)])][2 * phase :]
    pairs = [(fields[2 * n], fields[2 * n + 1]) for n in range(count)]
    return [_weave(pair, order, "yuv420p") for pair in pairs]


def encode_picture(picture: Pixels, pix_fmt: str = "yuv420p") -> VideoFrame:
    """Return a picture as a frame of limited range in BT.709."""
    return VideoFrame.from_ndarray(picture, format="rgb24").reformat(
        format=pix_fmt,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


def record(folder: Path, frames: Sequence[VideoFrame], recording: Recording, rate: Fraction | int = 25) -> Path:
    """Write frames to a file, flagged as the recording says."""
    path = folder / recording.name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(recording.codec, rate=rate, options=recording.options)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, recording.pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for number, frame in enumerate(_flag_frames(frames, recording.flag or recording.order)):
            frame.pts, frame.time_base = number, 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def record_soft_telecine(path: Path, film: Sequence[Pixels]) -> Path:
    """Write a film as on a DVD: its own frames, flagged to be shown for 3, 2, 3, 2 … fields of NTSC video."""
    with av.open(str(path), "w") as container:
        options = {**FIELDS, "qscale": "2", "bf": "0", "g": "6"}
        stream: Any = container.add_stream("mpeg2video", rate=NTSC, options=options)
        height, width = film[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        packets: list[Any] = []
        for number, picture in enumerate(film):
            frame = encode_picture(picture)
            frame.pts, frame.time_base = number, 1 / NTSC
            packets += stream.encode(frame)
        fields = 0
        for number, packet in enumerate([*packets, *stream.encode()]):
            count = 3 - number % 2
            data = bytearray(bytes(packet))
            extension = next(
                at for at in range(len(data)) if data[at : at + 4] == b"\0\0\1\xb5" and data[at + 4] >> 4 == 8
            )
            top_first, repeats = (number + 1) // 2 % 2 == 0, count == 3
            data[extension + 7] = data[extension + 7] & 0x7D | top_first << 7 | repeats << 1
            data[extension + 8] |= 0x80  # a progressive frame
            coded = av.Packet(bytes(data))
            coded.stream, coded.time_base = stream, 1 / (2 * NTSC)
            coded.pts, coded.dts, coded.duration, coded.is_keyframe = fields, fields, count, packet.is_keyframe
            container.mux(coded)
            fields += count
    return path


def measure_lines(pixels: Pixels) -> float:
    """Return how much lines differ from the mean of their neighbours, on average, in levels."""
    grey = pixels.mean(-1)
    return float(np.abs(grey[:-2] + grey[2:] - 2 * grey[1:-1]).mean())


def _weave(pictures: tuple[Pixels, Pixels], order: Order, pix_fmt: str) -> VideoFrame:
    """Return a frame whose earlier field is of the first picture and whose later one is of the second."""
    top, bottom = pictures if order == "tff" else pictures[::-1]
    woven = encode_picture(top, pix_fmt)
    for lines, other in zip(_list_lines(woven), _list_lines(encode_picture(bottom, pix_fmt)), strict=True):
        lines[1::2] = other[1::2]
    return woven


def _list_lines(frame: VideoFrame) -> Iterator[NDArray[np.uint8]]:
    for plane in frame.planes:
        yield np.frombuffer(cast("Any", plane), np.uint8).reshape(plane.height, -1)


def _flag_frames(frames: Iterable[VideoFrame], order: Order) -> Iterator[VideoFrame]:
    graph: Graph | None = None
    for frame in frames:
        if graph is None:
            graph = Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
        graph.vpush(frame)
        yield graph.vpull()
