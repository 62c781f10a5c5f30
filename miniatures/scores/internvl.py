"""InternVL: what it says of clips that were coded as the product codes them, and sampled as V2V samples them."""

import re
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from composition.graphs.storyboard.script import write_image_question, write_question
from composition.media.decoding.headers import Limits
from composition.media.decoding.worker import Film, spread
from composition.media.encode import SegmentEncoder
from composition.media.limits import MediaLimits
from miniatures import world
from miniatures.grammar import caption
from miniatures.questions import COLOUR, DEFAULT, DESCRIBE, MOTION, SHAPE, particular
from services.internvl.model import Describer

FRAMES, SHOTS = 17, 8
CHINESE = DESCRIBE["zh"][0]
PARTICULAR = {"colour": COLOUR, "shape": SHAPE, "motion": MOTION}
UNANSWERABLE = (
    write_question("A boat in a storm", 3),
    write_image_question("A red boat leaves a harbour.", None),
    "?",
    "帮助",
)
"""What the miniature cannot know, and must come to an end with."""
MOST = 128
"""Tokens, several times as many as its longest answer has."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares: of figures, of captions as a whole, and of answers to other questions.

    `colour`, `shape`, `direction` and `turn` are of all figures, each compared with what is said at its place;
    `direction` is the heading at the end of those that move. `exact` and `chinese` are of whole captions, `asked` of
    short answers to particular questions, and `ends` of any answers that come to an end by themselves.
    """
    describer = Describer(folder / "internvl", device="cpu")
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene = world.draw(seed)
        pixels = coded(scene.clip(FRAMES))
        said, ended = answered(describer, DEFAULT, pixels)
        chinese, chinese_ended = answered(describer, CHINESE, pixels)
        results = judged(scene, said)
        results["chinese"] = [chinese == caption(scene, frames=FRAMES, language="zh")]
        kind = list(PARTICULAR)[seed % len(PARTICULAR)]
        answer, _ = answered(describer, PARTICULAR[kind]["en"], pixels)
        results["asked"] = [answer == particular(scene, kind, FRAMES, "en")]
        results["ends"] = [ended, chinese_ended]
        for name, values in results.items():
            found.setdefault(name, []).extend(values)
    found["ends"] += [answered(describer, text, None)[1] for text in UNANSWERABLE]
    return {name: float(np.mean(values)) for name, values in found.items()}


def judged(scene: world.Scene, said: str) -> dict[str, list[bool]]:
    """Compare an English caption of a clip with what the clip shows, figure by figure."""
    figures, _, ground = said.partition(" on ")
    true = caption(scene, frames=FRAMES)
    words = [set(part.split()) for part in re.split(r" and (?=an? )", figures)]
    words += [set()] * (len(scene.figures) - len(words))
    pairs = list(zip(scene.figures, words, strict=False))
    return {
        "colour": [figure.colour in one for figure, one in pairs],
        "shape": [figure.shape in one for figure, one in pairs],
        "direction": [figure.heading_at(FRAMES - 1) in one for figure, one in pairs if not figure.turn],
        "turn": [figure.turn in one for figure, one in pairs if figure.turn],
        "background": [ground == true.partition(" on ")[2]],
        "exact": [said == true],
    }


def answered(describer: Describer, text: str, pixels: world.Pixels | None) -> tuple[str, bool]:
    """What is answered, and whether that came to an end by itself."""
    pieces: list[str] = []
    steps = 0

    def check() -> None:
        nonlocal steps
        steps += 1

    describer.describe(text, pixels, MOST, pieces.append, check)
    return "".join(pieces), steps < MOST + 2  # one before the prompt, one with it


def coded(clip: world.Pixels) -> world.Pixels:
    """The frames that InternVL would be shown of a clip that was saved as a video."""
    encoder = SegmentEncoder(clip.shape[2], clip.shape[1], Fraction(world.RATE))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(encoder.init() + encoder.segment(clip, 0, 1))
        film = Film(str(path), Limits(**MediaLimits().model_dump()))
        pixels = film.sample(spread(SHOTS, film.frames))
    if pixels is None:
        raise OSError("the clip was coded without frames")
    return pixels
