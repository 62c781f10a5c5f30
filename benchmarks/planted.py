"""Clips with and without planted faults, for `benchmarks/signals.py` and its test. Each is drawn from a seed."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from composition.media.encode import SegmentEncoder
from composition.media.encoders import SOFTWARE, Encoder
from composition.media.encoding import Encoding
from composition.media.fault_kinds import FaultKind
from composition.media.signals import FrameSignals, Origin, SignalMeter
from miniatures import world
from services.frames import Pixels

ROOT = Path(__file__).parent.parent
MOVIE = ROOT / "clients" / "media" / "bigbuckbunny.mp4"
PHOTOS = (ROOT / "tests" / "data" / "astronaut.png", ROOT / "tests" / "data" / "media" / "p3.png")
RATES = (8, 16, 24, 25, 30, 60)
SIZES = ((64, 64), (96, 64), (160, 96), (128, 224), (256, 144))
"""Width and height in pixels."""
TREATMENTS = ("nothing", "grain", "codec")
Generator: TypeAlias = np.random.Generator
Floats: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Clip:
    """A clip, and the fault in it."""

    pixels: Pixels
    rate: int
    origins: Sequence[Origin]
    kind: FaultKind | None = None
    """None for a clip without a fault."""
    first: int = 0
    last: int = 0
    """First and last frame of the fault."""

    def measure(self) -> list[FrameSignals]:
        """Return the signals of all frames."""
        return SignalMeter().measure(self.pixels, self.origins, [1 / self.rate] * len(self.pixels))


@dataclass(frozen=True)
class Shape:
    """Properties of a clip."""

    width: int
    height: int
    frames: int
    rate: int


def repeat_origin(origin: Origin, count: int) -> list[Origin]:
    """Return the origins of `count` frames that come from the same place."""
    return [origin] * count


def draw_shape(rng: Generator) -> Shape:
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    return Shape(width, height, int(rng.integers(32, 57)), int(rng.choice(RATES)))


# What moves.


def draw_world(rng: Generator, shape: Shape) -> Pixels:
    """Shapes of the miniatures' world that move in a line, bounce or turn."""
    scale = min(shape.width, shape.height) / world.SIDE
    size = round(shape.width / scale), round(shape.height / scale)
    style = cast("world.Style", str(rng.choice(world.STYLES)))
    return world.draw(int(rng.integers(1 << 19)), style=style, size=size).clip(shape.frames, scale=scale)


def draw_gradient(rng: Generator, shape: Shape) -> Pixels:
    """Waves of colour that move across the picture."""
    rows, columns = np.mgrid[: shape.height, : shape.width].astype(np.float32)
    frames = np.empty((shape.frames, shape.height, shape.width, 3), np.float32)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 2) * shape.width
    speed = rng.uniform(0.1, 0.8) / shape.rate
    base, amplitude, phase = rng.uniform(70, 185, 3), rng.uniform(15, 70, 3), rng.uniform(0, 6, 3)
    path = (rows * np.sin(angle) + columns * np.cos(angle)) / length
    for index in range(shape.frames):
        frames[index] = base + amplitude * np.sin(2 * np.pi * (path[..., None] + speed * index) + phase)
    return np.clip(frames, 0, 255).astype(np.uint8)


def draw_noise(rng: Generator, shape: Shape) -> Pixels:
    """Another picture of noise in each frame, fine or coarse."""
    grain = int(rng.integers(1, 4))
    small = rng.integers(0, 256, (shape.frames, -(-shape.height // grain), -(-shape.width // grain), 3), np.uint8)
    return small.repeat(grain, 1).repeat(grain, 2)[:, : shape.height, : shape.width]


def draw_photo(rng: Generator, shape: Shape) -> Pixels:
    """A photograph that is panned and zoomed, smoothly or by a shaking hand."""
    photos = _read_photos()
    photo = photos[int(rng.integers(len(photos)))]
    wide = min(photo.width, photo.height * shape.width / shape.height) * rng.uniform(0.35, 0.7)
    sides = np.array([wide, wide * shape.height / shape.width])
    shake = float(rng.choice([0.0, 0.004]) * wide)
    time = np.arange(shape.frames) / shape.rate
    zoom = np.clip(np.exp(rng.uniform(-0.12, 0.12) * time), 0.7, 1.4)
    room = np.array(photo.size) - sides * zoom.max()
    path = room * rng.uniform(0.2, 0.8, 2) + wide * rng.uniform(-0.25, 0.25, 2) * time[:, None]
    path += rng.normal(0, 1, path.shape) * shake
    path = room - abs((np.abs(path) % (2 * room)) - room)  # turns round at the edges
    boxes = np.concatenate((path, np.minimum(photo.size, path + sides * zoom[:, None])), axis=1)
    size, smooth = (shape.width, shape.height), Image.Resampling.BILINEAR
    frames = [photo.resize(size, smooth, (left, top, right, bottom)) for left, top, right, bottom in boxes.tolist()]
    return np.stack([np.asarray(frame) for frame in frames])


@cache
def _read_photos() -> tuple[Image.Image, ...]:
    movie = _read_movie(1280, 720)
    return (*(Image.open(path).convert("RGB") for path in PHOTOS), *(Image.fromarray(movie[n]) for n in (5, 60, 120)))


def take_movie(rng: Generator, shape: Shape) -> Pixels:
    """A piece of Big Buck Bunny, forward or backward."""
    movie = _read_movie(shape.width, shape.height)
    start = int(rng.integers(len(movie) - shape.frames + 1))
    piece = movie[start : start + shape.frames]
    return piece[::-1].copy() if rng.random() < 0.5 else piece.copy()


@cache
def _read_movie(width: int, height: int) -> Pixels:
    with av.open(str(MOVIE)) as container:
        shown = [frame.reformat(width=width, height=height, format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frame.to_ndarray() for frame in shown]).astype(np.uint8, copy=False)


SOURCES: Mapping[str, Callable[[Generator, Shape], Pixels]] = {
    "world": draw_world,
    "gradient": draw_gradient,
    "photo": draw_photo,
    "movie": take_movie,
    "noise": draw_noise,
}
"""Name → what draws a clip without faults."""
PICTURES = ("world", "gradient", "photo", "movie")
"""The sources whose frames are not all different."""


# What no fault is.


def hold_frames(rng: Generator, source: str, shape: Shape) -> Clip:
    """Show each frame two to eight times, as a slower video is shown at a higher rate."""
    times = int(rng.integers(2, 9))
    slow = _make_clip(SOURCES[source](rng, replace(shape, rate=max(1, shape.rate // times))), shape)
    shown = _treat(rng, slow, str(rng.choice(TREATMENTS)))
    return replace(shown, pixels=np.repeat(shown.pixels, times, axis=0)[: shape.frames])


def fade_to_black(rng: Generator, source: str, shape: Shape) -> Clip:
    """Begin and end in black."""
    pixels, length = SOURCES[source](rng, shape), int(rng.integers(6, 13))
    black, index = int(rng.integers(1, 4)), np.arange(shape.frames)
    light = np.clip(np.minimum(index, index[::-1]) - black + 1, 0, length) / length
    return _make_clip((pixels * light.astype(np.float32)[:, None, None, None]).astype(np.uint8), shape)


def join_shots(rng: Generator, source: str, shape: Shape) -> Clip:
    """Join two scenes by a cut or a cross-fade, as a storyboard does."""
    one, other = SOURCES[source](rng, shape), SOURCES[str(rng.choice(PICTURES))](rng, shape)
    fade, begin = int(rng.integers(0, 13)), int(rng.integers(6, shape.frames - 18))
    weight = np.clip((np.arange(shape.frames) - begin + 1) / (fade + 1), 0, 1).astype(np.float32)[:, None, None, None]
    origins: list[Origin] = repeat_origin("made", shape.frames)
    origins[begin : begin + fade] = repeat_origin("fade", fade)
    origins[begin + fade] = "shot"
    return replace(_make_clip((one * (1 - weight) + other * weight).astype(np.uint8), shape), origins=origins)


def continue_clip(rng: Generator, source: str, shape: Shape) -> Clip:
    """Begin with a user's frames, in which there is a cut, a still or a flicker."""
    given = shape.frames // 2
    pixels = SOURCES[source](rng, shape)
    if rng.random() < 0.5:
        pixels[: given // 2] = SOURCES[str(rng.choice(PICTURES))](rng, shape)[: given // 2]
    else:
        pixels[2 : given - 3] = pixels[2]
    origins: list[Origin] = repeat_origin("given", given) + repeat_origin("made", shape.frames - given)
    return replace(_make_clip(pixels, shape), origins=origins)


def stand_still(rng: Generator, source: str, shape: Shape) -> Clip:
    """Show one picture all the time."""
    return _make_clip(np.repeat(SOURCES[source](rng, shape)[:1], shape.frames, axis=0), shape)


def move_on(rng: Generator, source: str, shape: Shape) -> Clip:
    return _make_clip(SOURCES[source](rng, shape), shape)


ARRANGEMENTS: Mapping[str, Callable[[Generator, str, Shape], Clip]] = {
    "moving": move_on,
    "held": hold_frames,
    "fading": fade_to_black,
    "joined": join_shots,
    "continued": continue_clip,
    "still": stand_still,
}
"""Name → what draws a clip in which there is no fault."""


def _make_clip(pixels: Pixels, shape: Shape) -> Clip:
    return Clip(pixels, shape.rate, repeat_origin("made", len(pixels)))


# Faults.


def freeze(rng: Generator, clip: Clip, strength: float) -> Clip:
    """Repeat a frame, so that it is shown for at least a fifth of a second."""
    del strength
    count = int(rng.integers(max(5, clip.rate // 5 + 1), 17))
    first = int(rng.integers(2, len(clip.pixels) - count - 1))
    made = clip.pixels.copy()
    made[first : first + count] = made[first]
    return replace(clip, pixels=made, first=first, last=first + count - 1)


def flicker(rng: Generator, clip: Clip, strength: float) -> Clip:
    """Let brightness (by a factor or by a sum) or contrast go up and down by `strength`, a share of it."""
    count = int(rng.integers(8, 20))
    first = int(rng.integers(2, len(clip.pixels) - count - 1))
    period = float(rng.choice([2, 2.5, 3, 4]))
    wave = np.cos(2 * np.pi * np.arange(count) / period) * rng.uniform(0.7, 1, count)
    shaped = wave.astype(np.float32)[:, None, None, None] * strength
    made = clip.pixels.copy()
    part = made[first : first + count].astype(np.float32)
    middle = float(part.mean())
    changes = (part * (1 + shaped), part + 128 * shaped, middle + (part - middle) * (1 + 2 * shaped))
    made[first : first + count] = _round_levels(changes[int(rng.integers(3))])
    return replace(clip, pixels=made, first=first, last=first + count - 1)


def shift_colours(rng: Generator, clip: Clip, strength: float) -> Clip:
    """Change the colours from a frame on by `strength` levels: by a sum, by a factor, or each channel differently."""
    first = int(rng.integers(4, len(clip.pixels) - 4))
    made = clip.pixels.copy()
    part, sign = made[first:].astype(np.float32), float(rng.choice([-1, 1]))
    tint = rng.normal(0, 1, 3)
    tint = (tint / np.sqrt(np.square(tint).mean())).astype(np.float32)
    factor = 1 + sign * strength / max(30.0, float(part.mean()))
    changes = (part + sign * strength, part * factor, part + tint * strength)
    made[first:] = _round_levels(changes[int(rng.integers(3))])
    return replace(clip, pixels=made, first=first, last=first)


def cut(rng: Generator, clip: Clip, strength: float) -> Clip:
    """Go on with another scene."""
    del strength
    count, height, width, _ = clip.pixels.shape
    first = int(rng.integers(4, count - 4))
    other = SOURCES[str(rng.choice(PICTURES))](rng, Shape(width, height, count, clip.rate))
    return replace(clip, pixels=np.concatenate((clip.pixels[:first], other[first:])), first=first, last=first)


def blank(rng: Generator, clip: Clip, strength: float) -> Clip:
    """Replace one or more frames by one colour, with or without noise of one level."""
    del strength
    count = int(rng.integers(1, 12))
    first = int(rng.integers(0, len(clip.pixels) - count + 1))
    colour = np.array(rng.choice([0, 0, 127, 128, 255]) if rng.random() < 0.7 else rng.integers(0, 256, 3))
    made = clip.pixels.copy()
    noise = rng.integers(-1, 2, (count, *made.shape[1:])) if rng.random() < 0.3 else 0
    made[first : first + count] = np.clip(colour + noise, 0, 255)
    return replace(clip, pixels=made, first=first, last=first + count - 1)


FAULTS: Mapping[FaultKind, Callable[[Generator, Clip, float], Clip]] = {
    "frozen": freeze,
    "flicker": flicker,
    "cut": cut,
    "jump": shift_colours,
    "flat": blank,
}
"""Kind → what plants a fault of a strength: a share for `flicker`, levels for `jump`, otherwise unused."""


def _round_levels(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def code(clip: Clip, crf: int) -> Clip:
    """Encode the frames as a job does, and decode them."""
    count, height, width, _ = clip.pixels.shape
    encoder = SegmentEncoder(
        width, height, Fraction(clip.rate), encoder=Encoder(SOFTWARE["h264"], Encoding(crf=crf)), total_frames=count
    )
    data = encoder.encode_init() + encoder.encode_segment(clip.pixels, 0, 1)
    with av.open(io.BytesIO(data), "r") as container:
        shown: list[Any] = [frame.reformat(format="rgb24", dst_color_range=2) for frame in container.decode(video=0)]
    return replace(clip, pixels=np.stack([frame.to_ndarray() for frame in shown]))


def draw_clip(seed: int, source: str, arrangement: str = "moving") -> Clip:
    """Draw a clip without a fault: clean, with noise, or after a codec."""
    rng = np.random.default_rng(seed)
    clip = ARRANGEMENTS[arrangement](rng, source, draw_shape(rng))
    return clip if arrangement == "held" else _treat(rng, clip, str(rng.choice(TREATMENTS)))


def plant_fault(seed: int, source: str, kind: FaultKind, strength: float = 0.0) -> Clip:
    """Draw a clip with a fault. Noise comes before the fault, a codec before it or, if it is no colour, behind it."""
    rng = np.random.default_rng(seed)
    clip = move_on(rng, source, draw_shape(rng))
    treatment = str(rng.choice(["nothing", "grain", "codec", "codec behind"]))
    clip = replace(FAULTS[kind](rng, _treat(rng, clip, treatment), strength), kind=kind)
    return _treat(rng, clip, "codec") if treatment == "codec behind" and kind in ("frozen", "cut") else clip


def _treat(rng: Generator, clip: Clip, treatment: str) -> Clip:
    if treatment == "codec":
        return code(clip, int(rng.integers(16, 28)))
    if treatment != "grain":
        return clip
    noise = rng.normal(0, rng.uniform(0.5, 3), clip.pixels.shape)
    return replace(clip, pixels=_round_levels((clip.pixels + noise).astype(np.float32)))
