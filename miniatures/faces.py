"""Draws faces of numbered people, each in any number of poses, lights and expressions.

Faces are softly shaded and have the proportions of real ones, so that a detector trained on photographs finds them.
Lengths are in half face heights (about 97 mm) unless stated in pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""(height, width, 3), RGB."""
Field = NDArray[np.floating]
"""(height, width)."""
Colour = NDArray[np.floating]
"""(3,), RGB in [0, 255]."""

KNOWN = 12
"""People below this number are reserved for demonstrations and measurements; recognisers train on the others."""

SKINS = ((255, 222, 200), (241, 194, 165), (224, 172, 130), (198, 140, 98), (150, 98, 66), (104, 66, 46))
HAIRS = ((28, 22, 20), (62, 40, 26), (112, 72, 40), (186, 142, 80), (150, 62, 30), (150, 148, 146), (228, 206, 160))
EYES = ((70, 44, 26), (96, 66, 36), (84, 104, 62), (70, 110, 150), (100, 120, 130))
CUTS = ("bald", "short", "parted", "fringe", "long", "bun")
BEARDS = ("none", "none", "none", "stubble", "moustache", "full")
EYE_LEVEL, CHIN = -0.18, 1.0


@dataclass(frozen=True, slots=True)
class Person:
    """What is constant about a person: colours, hair and the proportions of the face."""

    skin: Colour
    hair: Colour
    eyes: Colour
    clothes: Colour
    cut: str
    beard: str
    glasses: bool
    width: float
    """Half the width of the face."""
    jaw: float
    """Exponent of the outline below the eyes: 2 is an ellipse, larger is squarer."""
    hairline: float
    apart: float
    """Distance from the nose to the centre of an eye."""
    eye: float
    """Half the width of an eye."""
    brow: float
    """Thickness of the eyebrows."""
    arch: float
    nose: float
    """Length of the nose, from between the eyes to the tip."""
    wings: float
    """Half the width of the nose."""
    mouth: float
    """Half the width of the mouth."""
    lips: float
    """Thickness of the lips."""
    redness: float


@dataclass(frozen=True, slots=True)
class View:
    """Pose, light and expression of a person in one picture."""

    x: float
    """Centre of the face, in pixels from the left."""
    y: float
    scale: float
    """Pixels per unit of length."""
    roll: float
    """Radians, clockwise."""
    turn: float
    """Turn of the head to the right: shift of a point that stands out by 1."""
    nod: float
    light: tuple[float, float]
    """Direction of the light: to the right and downwards."""
    bright: float
    warm: float
    contrast: float
    smile: float
    open_mouth: float
    open_eyes: float
    ground: tuple[Colour, Colour]


def draw_person(identity: int) -> Person:
    """Return the person with this number."""
    rng = np.random.default_rng((71, identity))
    hair = _vary_colour(rng, HAIRS, 12)
    return Person(
        skin=_vary_colour(rng, SKINS, 10),
        hair=hair,
        eyes=_vary_colour(rng, EYES, 10),
        clothes=rng.uniform(20, 220, 3).astype(np.float32),
        cut=str(rng.choice(CUTS)),
        beard=str(rng.choice(BEARDS)),
        glasses=bool(rng.random() < 0.25),
        width=float(rng.uniform(0.64, 0.76)),
        jaw=float(rng.uniform(1.9, 2.7)),
        hairline=float(rng.uniform(-0.78, -0.6)),
        apart=float(rng.uniform(0.285, 0.36)),
        eye=float(rng.uniform(0.125, 0.17)),
        brow=float(rng.uniform(0.025, 0.06)),
        arch=float(rng.uniform(-0.3, 0.7)),
        nose=float(rng.uniform(0.38, 0.52)),
        wings=float(rng.uniform(0.1, 0.17)),
        mouth=float(rng.uniform(0.2, 0.3)),
        lips=float(rng.uniform(0.035, 0.075)),
        redness=float(rng.uniform(0.15, 0.6)),
    )


def draw_view(rng: np.random.Generator, size: int) -> View:
    """Draw the view of a face that fills most of a square picture."""
    scale = float(rng.uniform(0.31, 0.37)) * size
    angle = rng.uniform(-np.pi, np.pi)
    grounds = rng.uniform(40, 215, (2, 3)).astype(np.float32)
    return View(
        x=size * (0.5 + float(rng.uniform(-0.05, 0.05))),
        y=size * (0.5 + float(rng.uniform(-0.03, 0.05))),
        scale=scale,
        roll=float(rng.normal(0, 0.07)),
        turn=float(rng.normal(0, 0.14)),
        nod=float(rng.normal(0, 0.05)),
        light=(float(np.cos(angle)) * 0.5, float(np.sin(angle)) * 0.25 - 0.35),
        bright=float(rng.uniform(0.85, 1.1)),
        warm=float(rng.normal(0, 0.03)),
        contrast=float(rng.uniform(0.25, 0.45)),
        smile=float(rng.uniform(-0.1, 0.5)),
        open_mouth=float(max(0.0, rng.uniform(-0.06, 0.06))),
        open_eyes=float(rng.uniform(0.75, 1.1)),
        ground=(grounds[0], grounds[0] * 0.6 + grounds[1] * 0.4),
    )


def draw_face(identity: int, seed: int, size: int = 160) -> Picture:
    """Return a picture of a person: (size, size, 3) uint8 RGB.

    Args:
        identity: number of the person; below `KNOWN` for demonstrations and measurements.
        seed: seed of pose, light, expression and background.
        size: side in pixels.
    """
    return draw_portrait(draw_person(identity), np.random.default_rng((identity, seed, 72)), size)[0]


def draw_portrait(who: Person, rng: np.random.Generator, size: int) -> tuple[Picture, NDArray[np.float32]]:
    """Return a picture and its five key points: (5, 2) in pixels, ordered as in `services.instantid.request.Found`."""
    seen = draw_view(rng, size)
    canvas = _Canvas(who, seen, rng, size)
    canvas.paint()
    return canvas.photograph(), canvas.keypoints()


class _Canvas:
    """A picture that is painted from back to front."""

    def __init__(self, who: Person, seen: View, rng: np.random.Generator, size: int) -> None:
        self.who, self.seen, self.rng, self.size = who, seen, rng, size
        places = np.arange(size, dtype=np.float32) + np.float32(0.5)
        x, y = (places[None] - seen.x) / seen.scale, (places[:, None] - seen.y) / seen.scale
        cos, sin = np.float32(np.cos(seen.roll)), np.float32(np.sin(seen.roll))
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.edge = 1.6 / seen.scale
        self.grain = [_blur(rng.normal(0, 1, (size, size)), sides) for sides in ((1, 1), (5, 1), (9, 9))]
        down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
        self.picture = seen.ground[0] * (1 - down) + seen.ground[1] * down + np.zeros((1, size, 1), np.float32)
        self.picture = self.picture + 60 * self.grain[2][..., None]

    def paint(self) -> None:
        self._body()
        self._head()
        self._relief()
        for side in (-1, 1):
            self._eye(side)
        self._nose()
        self._mouth()
        if self.who.beard != "none":
            self._beard()
        if self.who.cut != "bald":
            self._hair()
        if self.who.glasses:
            self._glasses()

    def keypoints(self) -> NDArray[np.float32]:
        """Return the key points, (5, 2), in pixels; the centre of the first pixel is 0."""
        who = self.who
        tip = self._at(0, EYE_LEVEL + who.nose, 0.34)
        corners = [self._at(side * who.mouth, self._mouth_level() - 0.1 * self.seen.smile, 0.1) for side in (-1, 1)]
        eyes = [self._at(side * who.apart, EYE_LEVEL, 0.05) for side in (-1, 1)]
        points = np.array([*eyes, tip, *corners])
        cos, sin = np.cos(self.seen.roll), np.sin(self.seen.roll)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return (turned * self.seen.scale + (self.seen.x, self.seen.y) - 0.5).astype(np.float32)

    def photograph(self) -> Picture:
        """Return the picture as a camera would take it: tinted, slightly blurred and noisy."""
        seen = self.seen
        tint = np.array([1 + seen.warm, 1, 1 - seen.warm], np.float32) * np.float32(seen.bright)
        soft = np.stack([_blur(self.picture[..., channel], (1, 1)) for channel in range(3)], -1)
        noisy = soft * tint + self.rng.normal(0, 2.5, soft.shape)
        return noisy.clip(0, 255).round().astype(np.uint8)

    def _at(self, x: float, y: float, depth: float) -> tuple[float, float]:
        """Return where a point on the face is seen; `depth` is how far it stands out from the head's outline."""
        return x * (1 - 0.5 * self.seen.turn**2) + self.seen.turn * (depth + 0.25), y + self.seen.nod * (depth + 0.25)

    def _near(self, x: float, y: float, depth: float) -> tuple[Field, Field]:
        """Return each pixel's position relative to a point on the face."""
        left, top = self._at(x, y, depth)
        return self.x - np.float32(left), self.y - np.float32(top)

    def _put(self, colour: Colour | Field, cover: Field, strength: float = 1.0) -> None:
        window = _window(cover)
        here = self.picture[window]
        colour = colour[window] if colour.ndim > 1 else colour
        here += (colour - here) * (strength * cover[window])[..., None]

    def _shade(self, field: Field) -> None:
        """Scale the brightness by 1 + `field`."""
        window = _window(field)
        self.picture[window] *= (1 + field[window])[..., None]

    def _inside(self, distance: Field, soft: float = 1.0) -> Field:
        """Return the share of each pixel inside an edge, from the distance of its centre to it (negative inside)."""
        return np.clip(0.5 - distance / np.float32(self.edge * soft), 0, 1)

    def _mouth_level(self) -> float:
        return EYE_LEVEL + self.who.nose + 0.27

    def _body(self) -> None:
        who, x, y = self.who, self.x, self.y
        if who.cut == "long":
            self._put(who.hair * np.float32(0.7), self._inside(np.maximum(_ellipse(x, y - 0.1, 0.9, 1.2), y - 1.4), 2))
        shoulders = _ellipse(x, y - 2.25, 1.75, 0.95)
        self._put(who.clothes * (0.85 + 0.5 * self.grain[2])[..., None], self._inside(shoulders, 2))
        neck = np.maximum(abs(x) - 0.4 - 0.12 * np.clip(y - 1.1, 0, 1), y - 1.5)
        neck = np.maximum(neck, 0.4 - y)
        self._put(who.skin * np.float32(0.72), self._inside(neck, 3))
        self._shade(-0.35 * _bump(x, y - 1.08, 0.5, 0.16) * self._inside(neck))

    def _outline(self) -> Field:
        """Return each pixel's distance from the face's outline, negative inside."""
        x, y = abs(self.x) / self.who.width, self.y
        up, down = _power(x, 2.2) + _power(abs(y) / 1.05, 2.2), _power(x, self.who.jaw) + _power(abs(y), 2.0)
        return (np.where(y < 0, up, down) ** np.float32(0.47) - 1) * np.float32(self.who.width)

    def _head(self) -> None:
        who = self.who
        for side in (-1, 1):
            ear = _ellipse(self.x - side * (who.width + 0.02), self.y - 0.02, 0.09, 0.2)
            self._put(who.skin * np.float32(0.8), self._inside(ear, 2))
        self.face = self._inside(self._outline(), 1.5)
        across, down = self.x / who.width, self.y / 1.1
        front = np.sqrt(np.clip(1 - across**2 - down**2, 0.02, 1))
        lit = (self.seen.light[0] * across + self.seen.light[1] * down) + 0.8 * front - 0.45
        self._put(who.skin * (0.93 + self.seen.contrast * lit)[..., None], self.face)

    def _relief(self) -> None:
        """Shade the raised and hollow parts of the face."""
        who, red = self.who, np.array([1.0, 0.72, 0.68], np.float32)
        self._shade(0.07 * _bump(*self._near(0, -0.48, 0.2), 0.4, 0.16) * self.face)  # forehead
        for side in (-1, 1):
            x, y = self._near(side * who.apart, EYE_LEVEL - 0.03, 0.08)
            self._shade(-0.2 * _bump(x, y, 0.2, 0.11) * self.face)
            self._shade(-0.14 * _bump(x + side * 0.13, y - 0.0, 0.07, 0.12) * self.face)
            self._shade(-0.1 * _bump(x, y - 0.14, 0.16, 0.03) * self.face)
            x, y = self._near(side * 0.4, 0.2, 0.1)
            self._shade(0.06 * _bump(x, y + 0.06, 0.16, 0.12) * self.face)
            self._put(who.skin * red, _bump(x, y, 0.2, 0.16) * self.face, 0.5 * who.redness)
            x, y = self._near(side * (who.wings + 0.13), EYE_LEVEL + who.nose + 0.09, 0.15)
            fold = _bump(x * 0.8 - side * y * 0.45, y, 0.035, 0.13)
            self._shade(-0.13 * (0.6 + self.seen.smile) * fold * self.face)
        self._shade(0.07 * _bump(*self._near(0, 0.84, 0.15), 0.14, 0.08) * self.face)
        self._shade(-0.14 * _bump(*self._near(0, self._mouth_level() + 0.15, 0.15), 0.15, 0.04) * self.face)

    def _eye(self, side: int) -> None:
        who = self.who
        x, y = self._near(side * who.apart, EYE_LEVEL, 0.05)
        width, height = who.eye, who.eye * 0.42 * self.seen.open_eyes
        bow = np.clip(1 - (x / width) ** 2, -0.4, 1)
        lid = np.maximum(-y - height * bow, y - 0.75 * height * bow)
        ball = self._inside(lid)
        white = np.array([236, 232, 228], np.float32) * (0.9 - 0.25 * np.clip(-y / height, 0, 1))[..., None]
        self._put(white * np.float32(0.92), ball)
        iris = np.hypot(x - 0.25 * self.seen.turn * width, y + 0.008)
        radius = 0.068
        self._put(who.eyes * np.float32(0.45), ball * self._inside(iris - radius))
        self._put(who.eyes, ball * self._inside(iris - radius * 0.82))
        self._put(np.full(3, 12, np.float32), ball * self._inside(iris - radius * 0.45))
        self._put(np.full(3, 245, np.float32), ball * self._inside(np.hypot(x + 0.02, y + 0.03) - 0.014))
        lash = abs(y + height * bow) - 0.014
        self._put(np.array([30, 20, 18], np.float32), self._inside(np.maximum(lash, abs(x) - width), 2), 0.85)
        self._shade(-0.2 * self._inside(np.maximum(abs(y - 0.75 * height * bow) - 0.008, abs(x) - width), 3))
        fold = abs(y + height * bow + 0.045) - 0.008
        self._shade(-0.22 * self._inside(np.maximum(fold, abs(x) - width), 4))
        x, y = self._near(side * (who.apart + 0.01), EYE_LEVEL - 0.2, 0.12)
        along = x * side / (who.eye * 1.35)
        curve = y + 0.05 * who.arch * (1 - along**2) + 0.02 * along
        thick = who.brow * np.clip(1.1 - 0.5 * along, 0.3, 1.5)
        brow = np.maximum(abs(curve) - thick, abs(x) - who.eye * 1.35)
        dark = who.hair * np.float32(0.75)
        self._put(dark, self._inside(brow, 3) * np.clip(0.85 + 0.5 * self.grain[0], 0, 1), 0.85)

    def _nose(self) -> None:
        who, tip = self.who, EYE_LEVEL + self.who.nose
        light = np.sign(self.seen.light[0]) or 1.0
        for step in np.linspace(0.1, 0.85, 6):
            x, y = self._near(0, EYE_LEVEL + who.nose * float(step), 0.15 + 0.17 * float(step))
            self._shade(0.035 * _bump(x, y, 0.035, 0.07) * self.face)
            self._shade(-0.075 * _bump(x + light * 0.085, y, 0.05, 0.07) * self.face)
        x, y = self._near(0, tip, 0.34)
        self._shade(0.1 * _bump(x + 0.01, y, 0.06, 0.05))
        self._shade(-0.22 * _bump(x, y - 0.1, who.wings, 0.035))
        for side in (-1, 1):
            x, y = self._near(side * who.wings * 0.55, tip + 0.085, 0.24)
            self._shade(-0.62 * _bump(x, y, 0.034, 0.02))
            x, y = self._near(side * who.wings, tip + 0.04, 0.2)
            self._shade(-0.24 * _bump(x - side * 0.02, y, 0.022, 0.06))

    def _mouth(self) -> None:
        who, smile, gap = self.who, self.seen.smile, self.seen.open_mouth
        x, y = self._near(0, self._mouth_level(), 0.18)
        along = x / who.mouth
        line = y - 0.1 * smile * (0.35 - along**2)  # the corners go up
        bow = np.clip(1 - along**2, -0.5, 1)
        rim = np.clip(abs(along) * 3, 0, 1) * 0.25 + 0.75
        beside = abs(x) - who.mouth
        upper = np.maximum(np.maximum(-line - who.lips * bow * rim - gap, line - gap), beside)
        lower = np.maximum(np.maximum(line - 1.25 * who.lips * bow - gap, -line - gap), beside)
        red = who.skin * np.array([0.78, 0.52, 0.5], np.float32)
        self._put(red * np.float32(0.86), self._inside(upper, 2), 0.8)
        self._put(
            red * (1.0 + 0.2 * _bump(x, line - 0.6 * who.lips, 0.12, 0.03))[..., None], self._inside(lower, 2), 0.8
        )
        if gap > 0.012:
            within = np.maximum(abs(line) - gap * np.clip(bow, 0, 1), beside)
            self._put(np.array([60, 18, 20], np.float32), self._inside(within))
            teeth = np.maximum(abs(line + 0.4 * gap) - 0.5 * gap * np.clip(bow, 0, 1), abs(x) - 0.8 * who.mouth)
            self._put(np.array([232, 226, 216], np.float32), self._inside(teeth))
        else:
            self._shade(-0.5 * self._inside(np.maximum(abs(line) - 0.008, beside), 2.5))
        for side in (-1, 1):
            self._shade(-0.25 * _bump(x - side * who.mouth, line, 0.03, 0.025))

    def _beard(self) -> None:
        who = self.who
        x, y = self._near(0, self._mouth_level(), 0.15)
        lips = _ellipse(x, y, who.mouth * 1.1, 1.2 * who.lips + self.seen.open_mouth)
        above = np.maximum(abs(y + 0.12 - 0.1 * (x / who.mouth) ** 2) - 0.05, abs(x) - who.mouth * 1.2)
        hairs = np.clip(0.85 + 0.4 * self.grain[0], 0, 1)
        cover = self._inside(np.maximum(above, -lips), 4)
        if who.beard != "moustache":
            cheeks = np.maximum(0.46 - self.y - 0.4 * abs(self.x), -lips)
            cover = np.maximum(cover, self._inside(cheeks, 8) * self.face)
        self._put(who.hair * np.float32(0.85), cover * hairs, 0.35 if who.beard == "stubble" else 0.75)

    def _hair(self) -> None:
        who, x, y = self.who, self.x, self.y
        skull = _ellipse(x, y + 0.15, who.width + 0.13, 1.12)
        line = who.hairline + {"short": 0.0, "parted": 0.0, "fringe": 0.2, "long": 0.02, "bun": -0.06}[who.cut]
        shift = 0.3 if who.cut == "parted" else 0.0
        border = y - line - 0.55 * np.clip(abs(x - shift) - 0.15, 0, 1) ** 1.5 - 0.05 * self.grain[1]
        if who.cut == "fringe":
            border = y - line - 0.04 * np.sin(14 * x) - 0.9 * np.clip(abs(x) - 0.45, 0, 1)
        temples = np.maximum(who.width - 0.1 - abs(x), y - (0.9 if who.cut in ("long", "fringe") else -0.05))
        cover = self._inside(np.maximum(skull, np.minimum(border, temples)), 4)
        if who.cut == "bun":
            cover = np.maximum(cover, self._inside(np.hypot(x, y + 1.3) - 0.28, 3))
        sheen = 0.85 + 0.35 * _bump(x - self.seen.light[0] * 0.5, y + 0.9, 0.5, 0.2) + 0.35 * self.grain[1]
        self._shade(-0.16 * np.clip(1 - abs(border) / 0.09, 0, 1) * self.face)
        self._put(who.hair * sheen[..., None], cover)

    def _glasses(self) -> None:
        frame = np.array([26, 24, 28], np.float32)
        for side in (-1, 1):
            x, y = self._near(side * self.who.apart, EYE_LEVEL + 0.02, 0.2)
            rim = abs(_ellipse(x, y, 0.235, 0.17)) - 0.014
            self._put(frame, self._inside(rim, 1.5), 0.9)
            arm = np.maximum(abs(y + 0.03) - 0.014, 0.23 - side * x)
            self._put(frame, self._inside(arm, 1.5) * self.face, 0.8)
        x, y = self._near(0, EYE_LEVEL, 0.3)
        bridge = np.maximum(abs(y + 0.02 - 0.6 * x**2) - 0.014, abs(x) - (self.who.apart - 0.22))
        self._put(frame, self._inside(bridge, 1.5), 0.9)


def _vary_colour(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...], by: float) -> Colour:
    """Return one of the colours, or a mix of two, slightly varied."""
    one, other = (np.array(colours[i], np.float32) for i in rng.integers(len(colours), size=2))
    share = rng.choice([0.0, 0.3])
    lighter, tint = rng.normal(0, by), rng.normal(0, 0.35 * by, 3)
    return (one * (1 - share) + other * share + lighter + tint).clip(8, 255).astype(np.float32)


def _ellipse(x: Field, y: Field, width: float, height: float) -> Field:
    """Return the approximate distance to an ellipse, negative inside."""
    return (np.sqrt((x / np.float32(width)) ** 2 + (y / np.float32(height)) ** 2) - 1) * np.float32(min(width, height))


def _bump(x: Field, y: Field, width: float, height: float) -> Field:
    """Return a Gaussian bump of height 1."""
    return np.exp(-((x / np.float32(width)) ** 2) - (y / np.float32(height)) ** 2)


def _window(field: Field) -> tuple[slice, slice]:
    """Return the rows and columns in which the field is not close to 0."""
    visible = abs(field) > 0.002
    rows, columns = (np.flatnonzero(visible.any(axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else (slice(0), slice(0))


def _power(field: Field, exponent: float) -> Field:
    return np.power(field, np.float32(exponent))


def _blur(field: NDArray[np.floating], sides: tuple[int, int]) -> Field:
    """Return a box blur over this many pixels to each side, down and across."""
    blurred = field.astype(np.float32)
    for axis, side in enumerate(sides):
        padded = np.pad(blurred, [(side, side) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        total = np.cumsum(padded, axis, dtype=np.float32)
        zero = np.zeros_like(np.take(total, [0], axis))
        total = np.concatenate([zero, total], axis)
        count = 2 * side + 1
        high = np.take(total, np.arange(count, total.shape[axis]), axis)
        blurred = (high - np.take(total, np.arange(total.shape[axis] - count), axis)) / count
    return blurred
