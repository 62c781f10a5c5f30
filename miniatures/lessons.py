"""Training clips of the InternVL miniature, as videos would show them, with the true content of each frame."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composition.media.decoding.worker import spread_positions
from miniatures import world
from miniatures.pictures import shift_colours

FACTS = {"count": 2, "first": 8, "last": 8, "style": 3}
"""Properties of a scene → number of possible values."""
LOOKS = {"colour": 8, "shape": 4}
"""Properties of a figure → number of possible values."""
MOTION = {"heading": 4, "turn": 3, "bounced": 2}
PLACE = 4
"""Coordinates of a figure: x, y, and its angle as a point on the unit circle."""
UNKNOWN = -100

Content = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Contents of `Known` for one clip: choices and places."""


@dataclass(frozen=True)
class Known:
    """True content of each frame of a batch of clips."""

    choices: Tensor
    """(clips, frames, properties) int64: FACTS, then LOOKS and MOTION of two figures; UNKNOWN for missing values."""
    places: Tensor
    """(clips, frames, 2 * PLACE) in [-1, 1]; NaN if absent."""


@dataclass(frozen=True, slots=True)
class Sampled(world.Figure):
    """A figure sampled at chosen times: frame i shows its state at `times[i]`."""

    times: NDArray[np.int64]

    def at(self, time: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return world.Figure.at(self, self.times[time.astype(np.int64)].astype(float))


def draw_clip(rng: np.random.Generator, shots: int) -> tuple[world.Scene, NDArray[np.int64], int]:
    """Draw a scene, the indices of the frames that are shown, and the number of frames of the whole clip."""
    longest = min(33, max(9, 5 * shots))  # longer gaps between two shown frames would hide the motion
    frames = shots if rng.random() < 0.08 else int(rng.integers(max(9, shots), longest + 1))
    size = (world.SIDE, world.SIDE)
    if rng.random() < 0.15:  # landscape or portrait
        size = (2 * int(rng.integers(33, 58)), world.SIDE)[:: int(rng.choice([1, -1]))]
    scene = world.draw(
        int(rng.integers(world.TRAINING_SEEDS, 2**40)),
        frames=2 if rng.random() < 0.5 else min(frames, 17),  # with two frames, bounces are unrestricted
        figures=2 if rng.random() < 0.25 else 1,
        style=rng.choice(world.STYLES, p=[0.7, 0.15, 0.15]),
        size=(size[0], size[1]),
        motion="turn" if rng.random() < 0.3 else "line",
    )
    return scene, np.array(spread_positions(shots, frames)), frames


def describe_frames(scene: world.Scene, times: NDArray[np.int64], frames: int) -> Content:
    """Return the contents of `Known` for one clip. The last shown frame has the heading of the clip's last frame."""
    colours = list(world.COLOURS)
    first, last = colours.index(scene.background[0]), colours.index(scene.background[-1])
    facts = [len(scene.figures) - 1, first, last, world.STYLES.index(scene.style)]
    choices = np.full((len(times), len(FACTS) + 2 * len(LOOKS) + 2 * len(MOTION)), UNKNOWN)
    places = np.full((len(times), 2 * PLACE), np.nan, np.float32)
    choices[:, : len(FACTS)] = facts
    for index, figure in enumerate(scene.figures):
        begin = len(FACTS) + index * len(LOOKS)
        choices[:, begin : begin + len(LOOKS)] = colours.index(figure.colour), world.SHAPES.index(figure.shape)
        x, y, angle = figure.at(times.astype(float))
        turned = angle * world.SYMMETRY[figure.shape]
        where = [2 * x / scene.width - 1, 2 * y / scene.height - 1, np.cos(turned), np.sin(turned)]
        places[:, PLACE * index : PLACE * (index + 1)] = np.stack(where, 1)
        if len(times) > 1:
            begin = len(FACTS) + 2 * len(LOOKS) + index * len(MOTION)
            choices[:, begin : begin + len(MOTION)] = _moving(figure, np.append(times[:-1], frames - 1))
        if figure.shape == "circle":  # its rotation is invisible
            places[:, PLACE * index + 2 : PLACE * (index + 1)] = np.nan
    return choices, places


def _moving(figure: world.Figure, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return heading, turn and whether the figure has bounced: (times, MOTION) int64."""
    if figure.heading is None:
        return np.array([[UNKNOWN, 1 + world.TURNS.index(str(figure.turn)), UNKNOWN]] * len(times))
    now = times.astype(float)
    here, next_to, begun = (np.stack(figure.at(moments)[:2], 1) for moments in (now, now + 0.01, np.zeros(1)))
    ways = np.array(list(world.HEADINGS.values()))
    heading = ((next_to - here) @ ways.T).argmax(1)
    straight = begun + world.SPEED * times[:, None] * np.array(world.HEADINGS[figure.heading])
    bounced = abs(here - straight).max(1) > 1e-3
    return np.stack([heading, np.zeros_like(heading), bounced], 1)


def stack_frames(contents: list[Content]) -> Known | None:
    """Return the contents of all clips of a batch, or None if there are no clips."""
    if not contents:
        return None
    choices, places = (torch.from_numpy(np.stack(parts)) for parts in zip(*contents, strict=True))
    return Known(choices, places)


def render_clip(rng: np.random.Generator, scene: world.Scene, times: NDArray[np.int64]) -> world.Pixels:
    """Draw a scene at `times` like a decoded video: at another size, in 4:2:0, with slightly different colours."""
    scale = float(rng.integers(24, 57)) / 32 if rng.random() < 0.25 else 1.0
    names = [field.name for field in fields(world.Figure)]
    figures = [Sampled(**{name: getattr(figure, name) for name in names}, times=times) for figure in scene.figures]
    pixels = replace(scene, figures=tuple(figures)).clip(len(times), scale=scale)
    if rng.random() < 0.6:
        pixels = subsample_chroma(pixels)
    if rng.random() < 0.3:  # not so strong that one colour turns into another
        pixels = (0.7 * pixels + 0.3 * shift_colours(rng, pixels, share=1)).astype(np.uint8)
    return pixels


def subsample_chroma(pixels: world.Pixels) -> world.Pixels:
    """Average the chroma of each 2 x 2 pixels, as H.264 does; an odd last row or column is dropped."""
    count, height, width, _ = pixels[:, 1::2, 1::2].shape
    pixels = pixels[:, : 2 * height, : 2 * width]
    bright = pixels @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    tint = (pixels - bright[..., None]).reshape(count, height, 2, width, 2, 3).mean((2, 4))
    return (bright[..., None] + tint.repeat(2, axis=1).repeat(2, axis=2) + 0.5).clip(0, 255).astype(np.uint8)
