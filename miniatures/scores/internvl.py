"""Scores of InternVL: captions of clips encoded as the product encodes them, with frames sampled as in V2V."""

import re
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from composition.graphs.storyboard.script import picture_question, question
from composition.media.decoding.headers import Limits
from composition.media.decoding.worker import Video, spread_positions
from composition.media.encode import SegmentEncoder
from composition.media.limits import MediaLimits
from miniatures import world
from miniatures.grammar import caption
from miniatures.questions import COLOUR, DEFAULT, DESCRIBE, MOTION, SHAPE, answer_particular
from services.internvl.model import Describer

FRAMES, SHOTS = 17, 8
CHINESE = DESCRIBE["zh"][0]
PARTICULAR = {"colour": COLOUR, "shape": SHAPE, "motion": MOTION}
UNANSWERABLE = (question("A boat in a storm", 3), picture_question("A red boat leaves a harbour.", None), "?", "帮助")
"""Questions the miniature cannot answer; it must still end its answer."""
MOST = 128
"""Limit of an answer in tokens, several times the longest correct one."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares of right properties of figures, of right captions, and of right answers to other questions.

    `colour`, `shape`, `direction` and `turn` count figures, in the order of the caption; `direction` is the final
    heading of moving ones. `exact` and `chinese` count whole captions, `asked` short answers to specific questions, and
    `ends` answers that end before the limit.
    """
    describer = Describer(folder / "internvl", device="cpu")
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene = world.draw(seed)
        pixels = encode_clip(scene.clip(FRAMES))
        answer, ended = ask_model(describer, DEFAULT, pixels)
        chinese, chinese_ended = ask_model(describer, CHINESE, pixels)
        results = judge_caption(scene, answer)
        results["chinese"] = [chinese == caption(scene, frames=FRAMES, language="zh")]
        kind = list(PARTICULAR)[seed % len(PARTICULAR)]
        answer, _ = ask_model(describer, PARTICULAR[kind]["en"], pixels)
        results["asked"] = [answer == answer_particular(scene, kind, FRAMES, "en")]
        results["ends"] = [ended, chinese_ended]
        for name, values in results.items():
            found.setdefault(name, []).extend(values)
    found["ends"] += [ask_model(describer, text, None)[1] for text in UNANSWERABLE]
    return {name: float(np.mean(values)) for name, values in found.items()}


def judge_caption(scene: world.Scene, answer: str) -> dict[str, list[bool]]:
    """Compare an English caption of a clip with its content, figure by figure."""
    figures, _, ground = answer.partition(" on ")
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
        "exact": [answer == true],
    }


def ask_model(describer: Describer, text: str, pixels: world.Pixels | None) -> tuple[str, bool]:
    """Return the answer, and whether it ended before the limit."""
    pieces: list[str] = []
    steps = 0

    def check() -> None:
        nonlocal steps
        steps += 1

    describer.describe(text, pixels, MOST, pieces.append, check)
    return "".join(pieces), steps < MOST + 2  # one before the prompt, one with it


def encode_clip(clip: world.Pixels) -> world.Pixels:
    """Return the frames that InternVL receives for a clip saved as a video."""
    encoder = SegmentEncoder(clip.shape[2], clip.shape[1], Fraction(world.RATE))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(encoder.encode_init() + encoder.encode_segment(clip, 0, 1))
        video = Video(str(path), Limits(**MediaLimits().model_dump()))
        pixels = video.sample(spread_positions(SHOTS, video.count))
    if pixels is None:
        raise OSError("the encoded clip has no frames")
    return pixels
