"""Clips with planted faults, for `benchmarks/signals.py` and its tests. Everything is drawn from a seed."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from composition.media.encode import SegmentEncoder
from composition.media.encoders import SOFTWARE, Encoder
from composition.media.encoding import Encoding
from composition.media.fault_kinds import FaultKind
from miniatures import world
from services.frames import Pixels

ROOT = Path(__file__).parent.parent
MOVIE = ROOT / "clients" / "media" / "bigbuckbunny.mp4"
PHOTOS = (ROOT / "tests" / "data" / "astronaut.png", ROOT / "tests" / "data" / "media" / "p3.png", MOVIE)
RATES = (8, 16, 24, 25, 30, 60)
SIZES = ((64, 64), (96, 64), (160, 96), (128, 224), (256, 144))
"""Width and height in pixels."""
Generator = np.random.Generator
Numbers = NDArray[np.floating]


@dataclass(frozen=True)
class Planted:
    """A clip, and the fault in it."""

    source: str
    pixels: Pixels
    rate: int
    kind: FaultKind | None
    """None for a clip without a fault."""
    first: int = 0
    last: int = 0
    """First and last frame of the fault."""
    strength: float = 0.0


@dataclass(frozen=True)
class Shape:
    """Properties of a clip."""

    width: int
    height: int
    frames: int
    rate: int


# Clips without faults.


def draw_world(rng: Generator, shape: Shape) -> Pixels:
    """Shapes of the miniatures' world that move in a line, bounce or turn."""
    short = min(shape.width, shape.height)
    scale = short / world.SIDE
    size = round(shape.width / scale), round(shape.height / scale)
    scene = world.draw(int(rng.integers(1 << 19)), style=str(rng.choice(world.STYLES)), size=size)  # pyright: ignore[reportArgumentType]
    return scene.clip(shape.frames, scale=scale)[:, : shape.height, : shape.width]


def draw_gradient(rng: Generator, shape: Shape) -> Pixels:
    """Waves of colour that move across the picture."""
    rows, columns = np.mgrid[: shape.height, : shape.width].astype(np.float32)
    frames = np.empty((shape.frames, shape.height, shape.width, 3), np.float32)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 2) * shape.width
    speed = rng.uniform(0.1, 0.8) / shape.rate
    base, amplitude, phase = rng.uniform(70, 185, 3), rng.uniform(15, 70, 3), rng.uniform(0, 6, 3)
    path = (rows * np.sin(angle) + columns * np.cos(angle)) / length
    for index in range(shape.frames):
        waves = np.sin(2 * np.pi * (path[..., None] + speed * index) + phase)
        frames[index] = base + amplitude * waves
    return np.clip(frames, 0, 255).astype(np.uint8)


def draw_noise(rng: Generator, shape: Shape) -> Pixels:
    """A new picture of noise in each frame, fine or coarse."""
    grain = int(rng.integers(1, 4))
    small = rng.integers(0, 256, (shape.frames, -(-shape.height // grain), -(-shape.width // grain), 3), np.uint8)
    return small.repeat(grain, 1).repeat(grain, 2)[:, : shape.height, : shape.width]


@cache
def _read_photos() -> tuple[Image.Image, ...]:
    pictures = [Image.open(path).convert("RGB") for path in PHOTOS[:2]]
    with av.open(str(MOVIE)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return (*pictures, *(Image.fromarray(frames[index]) for index in (5, 60, 120)))


def draw_photo(rng: Generator, shape: Shape) -> Pixels:
    """A photograph that is panned and zoomed, by hand or smoothly."""
    photo = _read_photos()[int(rng.integers(len(_read_photos())))]
    wide = min(photo.width, photo.height * shape.width / shape.height) * rng.uniform(0.35, 0.7)
    high = wide * shape.height / shape.width
    shake = rng.choice([0.0, 0.004]) * wide
    time = np.arange(shape.frames) / shape.rate
    zoom = np.exp(rng.uniform(-0.12, 0.12) * time)
    room = np.array([photo.width - wide * zoom.max(), photo.height - high * zoom.max()])
    begin, speed = room * rng.uniform(0.2, 0.8, 2), wide * rng.uniform(-0.25, 0.25, 2)
    path = begin + speed * time[:, None] + rng.normal(0, shake or 1e-9, (shape.frames, 2))
    path = room - abs((np.abs(path) % (2 * room)) - room)
    frames = [
        photo.resize(
            (shape.width, shape.height),
            Image.Resampling.BILINEAR,
            (x, y, min(photo.width, x + wide * z), min(photo.height, y + high * z)),
        )
        for (x, y), z in zip(path, zoom, strict=True)
    ]
    return np.stack([np.asarray(frame) for frame in frames])


@cache
def _read_movie(width: int, height: int) -> Pixels:
    with av.open(str(MOVIE)) as container:
        return np.stack(
            [
                frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
                for frame in container.decode(video=0)
            ]
        )


def take_movie(rng: Generator, shape: Shape) -> Pixels:
    """A piece of Big Buck Bunny, forward or backward."""
    movie = _read_movie(shape.width, shape.height)
    start = int(rng.integers(len(movie) - shape.frames + 1))
    piece = movie[start : start + shape.frames]
    return piece[::-1].copy() if rng.random() < 0.5 else piece.copy()


SOURCES: Mapping[str, Callable[[Generator, Shape], Pixels]] = {
    "world": draw_world,
    "gradient": draw_gradient,
    "noise": draw_noise,
    "photo": draw_photo,
    "movie": take_movie,
}
"""Name → what draws a clip without faults."""


# Faults.


def freeze(rng: Generator, pixels: Pixels, first: int, count: int) -> Pixels:
    """Repeat a frame `count` times."""
    del rng
    made = pixels.copy()
    made[first : first + count] = pixels[first]
    return made


def change_levels(pixels: Pixels, gain: Numbers | float, offset: Numbers | float, around: float = 0.0) -> Pixels:
    """Return `around + (pixels - around) * gain + offset`, per frame or channel."""
    changed = around + (pixels.astype(np.float32) - around) * gain + offset
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def make_flicker(rng: Generator, pixels: Pixels, first: int, count: int, strength: float) -> Pixels:
    """Let the brightness or the contrast of `count` frames go up and down by `strength`, a share of it."""
    time = np.arange(count)
    period = float(rng.choice([2, 2.5, 3, 4]))
    wave = np.cos(2 * np.pi * time / period) * rng.uniform(0.7, 1, count)
    part = pixels[first : first + count]
    made = pixels.copy()
    kind = rng.choice(["gain", "offset", "contrast"])
    shaped = wave[:, None, None, None] * strength
    if kind == "gain":
        made[first : first + count] = change_levels(part, 1 + shaped, 0)
    elif kind == "offset":
        made[first : first + count] = change_levels(part, 1.0, 128 * shaped)
    else:
        made[first : first + count] = change_levels(part, 1 + 2 * shaped, 0, float(pixels.mean()))
    return made


def shift_colours(rng: Generator, pixels: Pixels, first: int, strength: float) -> Pixels:
    """Change the colours from a frame on by about `strength` levels: brightness, contrast, tint or saturation."""
    made, part = pixels.copy(), pixels[first:].astype(np.float32)
    kind = rng.choice(["offset", "gain", "tint"])
    sign = rng.choice([-1, 1])
    if kind == "offset":
        changed = part + sign * strength
    elif kind == "gain":
        changed = part * (1 + sign * strength / max(30.0, float(part.mean())))
    else:
        tint = rng.normal(0, 1, 3)
        changed = part + (tint / np.sqrt(np.square(tint).mean())).astype(np.float32) * strength
    made[first:] = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return made


def blank(rng: Generator, pixels: Pixels, first: int, count: int) -> Pixels:
    """Replace frames by one colour, with or without a little noise."""
    colour = np.array(rng.choice([0, 0, 127, 128, 255]) if rng.random() < 0.7 else rng.integers(0, 256, 3))
    noise = rng.integers(-1, 2, (count, *pixels.shape[1:])) if rng.random() < 0.3 else 0
    made = pixels.copy()
    made[first : first + count] = np.clip(colour + noise, 0, 255)
    return made


def code(pixels: Pixels, rate: int, crf: float) -> Pixels:
    """Encode the frames as a job does, and decode them."""
    height, width = pixels.shape[1:3]
    encoder = SegmentEncoder(width, height, Fraction(rate), encoder=Encoder(SOFTWARE["h264"], Encoding(crf=crf)))
    data = encoder.encode_init() + encoder.encode_segment(pixels, 0, 1)
    with av.open(io.BytesIO(data), "r") as container:
        return np.stack(
            [frame.reformat(format="rgb24", dst_color_range=2).to_ndarray() for frame in container.decode(video=0)]
        )


def draw_shape(rng: Generator) -> Shape:
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    return Shape(width, height, int(rng.integers(32, 57)), int(rng.choice(RATES)))


def plant(seed: int, source: str, kind: FaultKind | None, strength: float) -> Planted:
    """Draw a clip and plant a fault of this strength: a share for `flicker`, levels for `jump`, else unused."""
    rng = np.random.default_rng(seed)
    shape = draw_shape(rng)
    pixels = SOURCES[source](rng, shape)
    long = shape.frames
    first = last = 0
    treatment = str(rng.choice(["none", "grain", "codec", "codec after"]))
    if treatment == "grain":
        pixels = np.clip(pixels + rng.normal(0, rng.uniform(0.5, 3), pixels.shape), 0, 255).astype(np.uint8)
    elif treatment == "codec":
        pixels = code(pixels, shape.rate, float(rng.integers(16, 28)))
    if kind == "frozen":
        count = int(rng.integers(max(5, shape.rate // 5 + 1), 17))
        first = int(rng.integers(2, long - count - 1))
        pixels, last = freeze(rng, pixels, first, count), first + count - 1
    elif kind == "flicker":
        count = int(rng.integers(8, 20))
        first = int(rng.integers(2, long - count - 1))
        pixels, last = make_flicker(rng, pixels, first, count, strength), first + count - 1
    elif kind == "jump":
        first = last = int(rng.integers(4, long - 4))
        pixels = shift_colours(rng, pixels, first, strength)
    elif kind == "cut":
        first = last = int(rng.integers(4, long - 4))
        other = SOURCES[str(rng.choice([name for name in SOURCES if name != "noise"]))](rng, shape)
        pixels = np.concatenate((pixels[:first], other[first:]))
    elif kind == "flat":
        count = int(rng.integers(1, 12))
        first = int(rng.integers(0, long - count + 1))
        pixels, last = blank(rng, pixels, first, count), first + count - 1
    if treatment == "codec after" and kind in (None, "frozen", "cut"):
        pixels = code(pixels, shape.rate, float(rng.integers(16, 28)))
    return Planted(source, np.ascontiguousarray(pixels), shape.rate, kind, first, last, strength)
