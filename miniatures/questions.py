"""Training questions and answers of the InternVL miniature."""

from dataclasses import dataclass

import numpy as np

from miniatures.grammar import WORDS, Language, caption
from miniatures.world import Scene
from services.internvl.request import DescribeRequest

DEFAULT: str = DescribeRequest.model_fields["prompt"].default
"""The question that V2V asks."""
DESCRIBE: dict[Language, tuple[str, ...]] = {
    "en": (
        "Describe this video.",
        "Describe the picture.",
        "What happens in this video?",
        "What do you see?",
        "What is shown here?",
        "Tell me what happens.",
        "Caption this clip.",
        "What is going on?",
    ),
    "zh": ("描述这个视频。", "详细描述这个视频。", "视频里发生了什么？", "你看到了什么？", "请描述画面。"),
}
STYLE: dict[Language, str] = {"en": "Describe this video and its style.", "zh": "描述视频和它的风格。"}
COLOUR: dict[Language, str] = {"en": "What colour is the shape?", "zh": "它是什么颜色？"}
SHAPE: dict[Language, str] = {"en": "Which shape is it?", "zh": "它是什么形状？"}
MOTION: dict[Language, str] = {"en": "Which way does it move?", "zh": "它向哪边移动？"}
SHARES = {"default": 0.4, "describe": 0.25, "unheard of": 0.12, "style": 0.07, "colour": 0.05, "shape": 0.05}
"""Kind of question → share; the rest asks about motion. Chinese questions are never of the kind `default`."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its correct answer."""

    text: str
    answer: str
    language: Language


def ask(rng: np.random.Generator, scene: Scene, frames: int | None, *, blind: bool = False) -> Question:
    """Draw a question about `scene`, most often V2V's; a quarter are asked and answered in Chinese.

    Args:
        rng: random generator.
        scene: scene to ask about.
        frames: length of the clip; None for a picture, in which nothing moves.
        blind: whether no frames are shown; then the question is one that any caption answers.
    """
    language: Language = "zh" if rng.random() < 0.25 else "en"
    draw, kind = rng.random(), "motion"
    for name, share in SHARES.items():
        if draw < share:
            kind = name
            break
        draw -= share
    if kind == "style" and not blind:
        return Question(STYLE[language], caption(scene, frames=frames, language=language, styled=True), language)
    if kind in ("colour", "shape", "motion") and not (blind or (kind == "motion" and frames is None)):
        text = {"colour": COLOUR, "shape": SHAPE, "motion": MOTION}[kind][language]
        return Question(text, answer_particular(scene, kind, frames or 1, language), language)
    if kind == "unheard of":
        text = draw_nonsense(rng, language, 40)
    elif kind == "default" and language == "en":
        text = DEFAULT
    else:
        text = str(rng.choice(DESCRIBE[language]))
    return Question(text, caption(scene, frames=frames, language=language), language)


def answer_particular(scene: Scene, kind: str, frames: int, language: Language) -> str:
    """Return only the `colour`, the `shape`, or the `motion` at the end of each figure."""
    words = [
        {
            "colour": figure.colour,
            "shape": figure.shape,
            "motion": figure.turn or str(figure.heading_at(frames - 1)),
        }[kind]
        for figure in scene.figures
    ]
    return " and ".join(words) if language == "en" else "和".join(WORDS[word] for word in words)


def draw_nonsense(rng: np.random.Generator, language: Language, longest: int) -> str:
    """Draw meaningless text of 8 to `longest` bytes, more often short."""
    count = int(np.exp(rng.uniform(np.log(8), np.log(longest))))
    if language == "zh":
        return "".join(map(chr, rng.integers(0x4E00, 0x9FA6, -(-count // 3))))
    letters = [*map(chr, range(ord(" "), 127)), "\n", *(" " * 12), *("etaoinshr" * 3)]
    return "".join(rng.choice(letters, count))
