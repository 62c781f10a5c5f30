"""What InternVL's miniature is shown: scenes as videos have them, and what is true of each frame."""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composition.media.decoding.worker import spread_positions
from miniatures import world
from miniatures.pictures import coloured

FACTS = {"count": 2, "first": 8, "last": 8, "style": 3}
"""What can be said of a scene, and how many answers there are."""
LOOKS = {"colour": 8, "shape": 4}
"""The same of a figure."""
MOTION = {"heading": 4, "turn": 3, "bounced": 2}
PLACE = 4
"""Numbers that say where a figure is: across, down, and its angle as a point on the circle."""
UNKNOWN = -100

Told = tuple[NDArray[np.int64], NDArray[np.float32]]
"""What `Known` holds, of one clip."""


@dataclass(frozen=True)
class Known:
    """What is true of the frames of clips."""

    choices: Tensor
    """(clips, frames, questions) int64, in the order of FACTS, twice LOOKS, twice MOTION; UNKNOWN where nothing is."""
    places: Tensor
    """(clips, frames, 2 * PLACE) in [-1, 1]; not a number where nothing is."""


@dataclass(frozen=True, slots=True)
class Sampled(world.Figure):
    """A figure at moments of its own: what is drawn as frame i is how it is at `times[i]`."""

    times: NDArray[np.int64]

    def at(self, time: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        return world.Figure.at(self, self.times[time.astype(np.int64)].astype(float))


def drawn(rng: np.random.Generator, shots: int) -> tuple[world.Scene, NDArray[np.int64], int]:
    """A scene, at which of its frames it is shown, and how many frames it has in all."""
    longest = min(33, max(9, 5 * shots))  # or nobody could tell what happened between two shots
    frames = shots if rng.random() < 0.08 else int(rng.integers(max(9, shots), longest + 1))
    size = (world.SIDE, world.SIDE)
    if rng.random() < 0.15:  # as wide as a film, or as high as a telephone's
        size = (2 * int(rng.integers(33, 58)), world.SIDE)[:: int(rng.choice([1, -1]))]
    scene = world.draw(
        int(rng.integers(world.TRAINING_SEEDS, 2**40)),
        frames=2 if rng.random() < 0.5 else min(frames, 17),  # of two, it bounces where it will
        figures=2 if rng.random() < 0.25 else 1,
        style=rng.choice(world.STYLES, p=[0.7, 0.15, 0.15]),
        size=(size[0], size[1]),
        motion="turn" if rng.random() < 0.3 else "line",
    )
    return scene, np.array(spread_positions(shots, frames)), frames


def known(scene: world.Scene, times: NDArray[np.int64], frames: int) -> Told:
    """What `Known` holds of one clip. In its last frame shown, headings are those of its last frame."""
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
        if figure.shape == "circle":  # nobody sees it turn
            places[:, PLACE * index + 2 : PLACE * (index + 1)] = np.nan
    return choices, places


def _moving(figure: world.Figure, times: NDArray[np.int64]) -> NDArray[np.int64]:
    """(times, MOTION): where it goes, how it turns, whether it has bounced."""
    if figure.heading is None:
        return np.array([[UNKNOWN, 1 + world.TURNS.index(str(figure.turn)), UNKNOWN]] * len(times))
    now = times.astype(float)
    here, next_to, begun = (np.stack(figure.at(moments)[:2], 1) for moments in (now, now + 0.01, np.zeros(1)))
    ways = np.array(list(world.HEADINGS.values()))
    heading = ((next_to - here) @ ways.T).argmax(1)
    straight = begun + world.SPEED * times[:, None] * np.array(world.HEADINGS[figure.heading])
    bounced = abs(here - straight).max(1) > 1e-3
    return np.stack([heading, np.zeros_like(heading), bounced], 1)


def stacked(told: list[Told]) -> Known | None:
    """What is known of each clip of a batch; None of no clips."""
    if not told:
        return None
    choices, places = (torch.from_numpy(np.stack(parts)) for parts in zip(*told, strict=True))
    return Known(choices, places)


def shown(rng: np.random.Generator, scene: world.Scene, times: NDArray[np.int64]) -> world.Pixels:
    """Draw a scene at `times` as a video might have it: in another size, in 4:2:0, in slightly other colours."""
    scale = float(rng.integers(24, 57)) / 32 if rng.random() < 0.25 else 1.0
    names = [field.name for field in fields(world.Figure)]
    figures = [Sampled(**{name: getattr(figure, name) for name in names}, times=times) for figure in scene.figures]
    pixels = replace(scene, figures=tuple(figures)).clip(len(times), scale=scale)
    if rng.random() < 0.6:
        pixels = subsampled(pixels)
    if rng.random() < 0.3:  # not so far that a colour becomes another
        pixels = (0.7 * pixels + 0.3 * coloured(rng, pixels, share=1)).astype(np.uint8)
    return pixels


def subsampled(pixels: world.Pixels) -> world.Pixels:
    """Share the tint among each four pixels, as H.264 does; an odd last row or column is left out."""
    count, height, width, _ = pixels[:, 1::2, 1::2].shape
    pixels = pixels[:, : 2 * height, : 2 * width]
    bright = pixels @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    tint = (pixels - bright[..., None]).reshape(count, height, 2, width, 2, 3).mean((2, 4))
    return (bright[..., None] + tint.repeat(2, axis=1).repeat(2, axis=2) + 0.5).clip(0, 255).astype(np.uint8)
