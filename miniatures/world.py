"""The world of the miniatures: one or two coloured shapes on a plain or two-tone background.

Shapes move, bounce or turn. Everything is drawn from a seed, so the content of a clip is known exactly and results can
be judged against it. Lengths are in pixels of a picture whose shorter side is 64; `Scene.clip` draws at any size.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""(frames, height, width, 3), RGB."""
Numbers = NDArray[np.floating[Any]]

SIDE = 64
SPEED = 1.5
"""Pixels per frame."""
SPIN = np.pi / 30
"""Radians per frame."""
RATE = 16
"""Frames per second."""
TRAINING_SEEDS = 1_000_000
"""First seed of the training set. Scenes with smaller seeds are reserved for tests and measurements."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 168, 70),
    "blue": (40, 84, 214),
    "yellow": (246, 212, 50),
    "purple": (146, 54, 186),
    "orange": (246, 140, 34),
    "white": (240, 240, 240),
    "black": (26, 26, 26),
}
CONTRAST = 120.0
"""Smallest distance of a shape's colour from the background's."""
SHAPES = ("circle", "square", "triangle", "star")
HEADINGS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
"""Name → step to the right and down."""
TURNS = ("clockwise", "anticlockwise")
STYLES = ("flat", "outlined", "stippled")
Style = Literal["flat", "outlined", "stippled"]
Halves = Literal["none", "across", "beside"]
Motion = Literal["any", "line", "bounce", "turn"]

REACH = {"circle": 1.0, "square": 0.9, "triangle": 1.3, "star": 1.35}
"""Extent of a shape from its centre, in radii; for a square to its sides, so the corners of a turning one may leave its
room."""
SYMMETRY = {"circle": 1, "square": 4, "triangle": 3, "star": 5}
"""Number of rotations that map a shape onto itself."""
STAR_WAIST = 0.48
"""Radius of a star's inner corners, relative to the outer ones."""
UP = -np.pi / 2


@dataclass(frozen=True, slots=True)
class Figure:
    """One shape and its motion from the first frame on."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float
    heading: str | None
    """Direction of motion, or None if the shape stays in place."""
    turn: str | None
    angle: float
    """Angle in the first frame, in radians, clockwise."""
    room: tuple[float, float, float, float]
    """Left, top, right and bottom edge of the area in which it bounces."""

    def at(self, time: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Return x, y and angle at each `time`, in frames from the first."""
        step = HEADINGS[self.heading] if self.heading else (0, 0)
        low = np.array(self.room[:2]) + self.reach
        high = np.array(self.room[2:]) - self.reach
        x, y = (
            reflect(start + SPEED * direction * time, low[axis], high[axis])
            for axis, (start, direction) in enumerate(zip((self.x, self.y), step, strict=True))
        )
        spin = {"clockwise": SPIN, "anticlockwise": -SPIN, None: 0.0}[self.turn]
        return x, y, self.angle + spin * time

    @property
    def reach(self) -> float:
        return self.radius * REACH[self.shape]

    def heading_at(self, time: float) -> str | None:
        """Return the heading at `time`; in the frame of a bounce, the heading after it."""
        if self.heading is None:
            return None
        x, y, _ = self.at(np.array([time, time + 0.01]))
        moved = (x[1] - x[0], y[1] - y[0])
        return max(HEADINGS, key=lambda name: float(np.dot(HEADINGS[name], moved)))

    def bounces(self, frames: int) -> bool:
        """Return whether it touches an edge within this many frames."""
        headings = [self.heading_at(time) for time in range(frames)]
        return any(before != after for before, after in pairwise(headings))

    def distance(self, x: Numbers, y: Numbers, angle: Numbers) -> Numbers:
        """Return the distance of points (x, y), relative to the centre, from the edge, negative inside; in pixels."""
        if self.shape == "circle":
            return np.hypot(x, y) - self.radius
        if self.shape == "square":
            across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            return np.maximum(abs(across), abs(down)) - self.reach
        corners = {"triangle": 3, "star": 5}[self.shape]
        wedge = np.float32(2 * np.pi / corners)
        length, turned = np.hypot(x, y), np.arctan2(y, x) - angle - np.float32(UP)
        fold = abs((turned + wedge / 2) % wedge - wedge / 2)  # 0 towards a corner, wedge / 2 between two
        inner = np.cos(wedge / 2) if self.shape == "triangle" else STAR_WAIST
        # The side runs from the corner at (1, 0) to the one between two corners; its normal points outwards.
        side = np.array([inner * np.cos(wedge / 2) - 1, inner * np.sin(wedge / 2)]) * self.reach
        normal = np.array([side[1], -side[0]]) / np.hypot(*side)
        along, aside = length * np.cos(fold), length * np.sin(fold)
        return ((along - self.reach) * normal[0] + aside * normal[1]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of a clip."""

    figures: tuple[Figure, ...]
    """One or two figures; of two, the upper or left one first."""
    background: tuple[str, ...]
    """One colour, or two with the upper or left one first."""
    halves: Halves
    """Whether two background colours are above each other or side by side."""
    style: Style = "flat"
    width: int = SIDE
    height: int = SIDE

    def clip(self, frames: int, *, scale: float = 1.0, start: float = 0.0) -> Pixels:
        """Draw frames from frame `start` on: (frames, height * scale, width * scale, 3)."""
        time = start + np.arange(frames)
        rows = (np.arange(round(self.height * scale), dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
        columns = (np.arange(round(self.width * scale), dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
        picture = np.broadcast_to(self._ground(rows, columns), (frames, len(rows), len(columns), 3))
        for figure in self.figures:
            distance = self._distance(figure, time, rows, columns)
            paint, cover = self._paint(figure, distance, rows, columns, scale)
            picture = picture + (paint - picture) * cover
        return (picture + 0.5).astype(np.uint8)

    def edges(self, frames: int, *, scale: float = 1.0, start: float = 0.0) -> Pixels:
        """Draw only the outlines, white on black and two pixels wide, in the shape of `clip`."""
        time = start + np.arange(frames)
        rows = (np.arange(round(self.height * scale), dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
        columns = (np.arange(round(self.width * scale), dtype=np.float32) + np.float32(0.5)) / np.float32(scale)
        lines = [_cover((abs(self._distance(f, time, rows, columns)) - 1.0) * scale) for f in self.figures]
        picture = np.max(lines, axis=0)[..., None] * np.float32(255)
        return np.repeat(picture + 0.5, 3, axis=-1).astype(np.uint8)

    def masks(self, frames: int, *, start: float = 0.0) -> NDArray[np.bool_]:
        """Return the pixels of each figure: (figures, frames, height, width)."""
        time = start + np.arange(frames)
        rows, columns = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in (self.height, self.width))
        return np.stack([self._distance(figure, time, rows, columns) < 0 for figure in self.figures])

    def _ground(self, rows: Numbers, columns: Numbers) -> Numbers:
        first, last = (np.array(COLOURS[name], np.float32) for name in (self.background[0], self.background[-1]))
        beyond = {
            "none": np.zeros((len(rows), len(columns))),
            "across": np.repeat((rows > self.height / 2)[:, None], len(columns), 1),
            "beside": np.repeat((columns > self.width / 2)[None], len(rows), 0),
        }[self.halves]
        return np.where(beyond[..., None], last, first).astype(np.float32)

    @staticmethod
    def _distance(figure: Figure, time: Numbers, rows: Numbers, columns: Numbers) -> Numbers:
        x, y, angle = (values.astype(np.float32)[:, None, None] for values in figure.at(time))
        return figure.distance(columns[None, None] - x, rows[None, :, None] - y, angle)

    def _ink(self, figure: Figure) -> str:
        """Return the colour of lines and dots: black where it is visible."""
        return next(name for name in ("black", "white", *COLOURS) if name not in (figure.colour, *self.background))

    def _paint(
        self,
        figure: Figure,
        distance: Numbers,
        rows: Numbers,
        columns: Numbers,
        scale: float,
    ) -> tuple[Numbers, Numbers]:
        """Return the colours of a figure and its coverage of each pixel."""
        colour = np.array(COLOURS[figure.colour], np.float32)
        ink = np.array(COLOURS[self._ink(figure)], np.float32)
        cover = _cover(distance * scale)[..., None]
        if self.style == "outlined":
            line = _cover((-distance - 3.5) * scale)[..., None]
            return colour + (ink - colour) * line, cover
        if self.style == "stippled":
            dots = np.sin(rows * np.float32(np.pi / 4))[:, None] * np.sin(columns * np.float32(np.pi / 4))[None]
            dot = _cover((0.25 - dots) * 3 * scale)[None, ..., None]
            return colour + (ink - colour) * dot * np.float32(0.7), cover
        return colour, cover


def reflect(value: Numbers, low: float, high: float) -> Numbers:
    """Reflect a straight movement at both ends of [low, high]."""
    width = max(high - low, 1e-6)
    return low + width - abs((value - low) % (2 * width) - width)


def _cover(distance: Numbers) -> Numbers:
    """Return the share of each pixel inside, from the distance of its centre to the edge (negative inside)."""
    return np.clip(np.float32(0.5) - distance, 0, 1)


def contrast(one: str, other: str) -> float:
    """Return the distance of two colours in brightness and chroma; chroma, to which eyes react less, counts 3/4."""
    a, b = (np.array(COLOURS[name], float) for name in (one, other))
    luma = np.array([0.299, 0.587, 0.114])
    light = float(luma @ (a - b))
    tint = (a - b) - light
    return float(np.hypot(light, 0.75 * np.linalg.norm(tint)))


def find_matching(*others: str) -> list[str]:
    """Return the colours that stand out from all of `others`."""
    return [name for name in COLOURS if all(contrast(name, other) >= CONTRAST for other in others)]


def draw(
    seed: int,
    *,
    frames: int = 17,
    figures: int | None = None,
    style: Style = "flat",
    size: tuple[int, int] = (SIDE, SIDE),
    motion: Motion = "any",
) -> Scene:
    """Draw a random scene.

    Args:
        seed: the same seed and arguments give the same scene.
        frames: number of frames in which a `line` touches no edge and a `bounce` does; 2 to 25.
        figures: 1 or 2; by default mostly 1.
        style: how shapes are painted.
        size: width and height of the picture, in pixels.
        motion: motion of a single figure; two move in lines and may bounce.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    count = figures or (2 if rng.random() < 0.15 else 1)
    background, halves = _background(rng)
    rooms: list[tuple[float, float, float, float]] = [(0, 0, width, height)]
    headings = list(HEADINGS)
    if count == 2:
        above = rng.random() < 0.5
        rooms = _halve_room(rooms[0], above=above)
        headings = ["right", "left"] if above else ["down", "up"]
    kind = motion
    if kind == "any":
        kind = str(rng.choice(["line", "bounce", "turn"], p=[0.6, 0.2, 0.2]))
    scene = Scene((), background, halves, style, width, height)
    for room in rooms:
        figure = _figure(rng, room, find_matching(*background), headings, kind if count == 1 else "any", frames)
        scene = replace(scene, figures=(*scene.figures, figure))
    return scene


def _background(rng: np.random.Generator) -> tuple[tuple[str, ...], Halves]:
    first = str(rng.choice(list(COLOURS)))
    if rng.random() >= 0.2:
        return (first,), "none"
    second = str(rng.choice(_list_second_colours(first)))
    return (first, second), "across" if rng.random() < 0.5 else "beside"


def _list_second_colours(first: str) -> list[str]:
    """Return the colours that match `first` as a second background colour and leave some for the shapes."""
    return [
        name
        for name in COLOURS
        if name != first and contrast(name, first) >= 60 and len(find_matching(first, name)) > 1
    ]


def _halve_room(room: tuple[float, float, float, float], *, above: bool) -> list[tuple[float, float, float, float]]:
    left, top, right, bottom = room
    x, y = (left + right) / 2, (top + bottom) / 2
    if above:
        return [(left, top, right, y), (left, y, right, bottom)]
    return [(left, top, x, bottom), (x, top, right, bottom)]


def _figure(
    rng: np.random.Generator,
    room: tuple[float, float, float, float],
    colours: list[str],
    headings: list[str],
    motion: str,
    frames: int,
) -> Figure:
    """Draw shapes, positions and headings until one has the requested motion."""
    while True:
        shape = str(rng.choice(SHAPES[1:] if motion == "turn" else SHAPES))
        across = min(room[2] - room[0], room[3] - room[1])
        radius = float(rng.uniform(0.155, 0.22) * across if across >= SIDE else rng.uniform(0.27, 0.34) * across)
        margin = radius * REACH[shape] + 1
        x = float(rng.uniform(room[0] + margin, room[2] - margin))
        y = float(rng.uniform(room[1] + margin, room[3] - margin))
        turn = str(rng.choice(TURNS)) if motion == "turn" else None
        heading = None if turn else str(rng.choice(headings))
        angle = float(rng.uniform(-np.pi, np.pi)) if turn else 0.0
        figure = Figure(shape, str(rng.choice(colours)), radius, x, y, heading, turn, angle, room)
        if motion in ("any", "turn") or figure.bounces(frames) == (motion == "bounce"):
            return figure
