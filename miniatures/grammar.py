"""Captions of scenes in English and Chinese, and their vocabulary."""

from typing import Literal

import numpy as np

from miniatures.world import Figure, Scene

Language = Literal["en", "zh"]

WORDS: dict[str, str] = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "purple": "紫色",
    "orange": "橙色",
    "white": "白色",
    "black": "黑色",
    "circle": "圆形",
    "square": "方形",
    "triangle": "三角形",
    "star": "星形",
    "right": "向右",
    "left": "向左",
    "up": "向上",
    "down": "向下",
    "moves": "移动",
    "bounces": "弹回",
    "turns": "旋转",
    "clockwise": "顺时针",
    "anticlockwise": "逆时针",
    "outlined": "描边",
    "stippled": "点画",
    "background": "背景",
    "and": "和",
    "a": "一个",
    "on": "为",
}
"""English → Chinese word. Both have the same meaning to the text encoders."""
MORE: tuple[str, ...] = ("an", "A", "An", "的", "后", "，", ".", "。", ",")
"""Words and punctuation of one language only."""
FACE_WORDS: dict[str, str] = {"face": "脸", "portrait": "肖像"}
PORTRAITS: dict[Language, tuple[str, ...]] = {"en": ("a portrait", "a face"), "zh": ("一个肖像", "一个脸")}
"""Captions of a portrait; they do not tell people apart."""


def vocabulary() -> list[str]:
    """Return all words of captions, in a fixed order."""
    return [*WORDS, *FACE_WORDS, *MORE, *WORDS.values(), *FACE_WORDS.values()]


def caption(
    scene: Scene,
    *,
    frames: int | None = None,
    language: Language = "en",
    styled: bool = False,
) -> str:
    """Describe `scene`, e.g. `a red circle moves right on a blue background`.

    Args:
        scene: scene to describe.
        frames: length of the clip. The heading is that of its last frame, with a note if the shape has bounced, because
            the last frame is where a continuation starts. 1: the heading at the start. None: a picture, no motion.
        language: English or Chinese.
        styled: whether to name the style.
    """
    style = scene.style if styled and scene.style != "flat" else ""
    phrases = [_figure(figure, frames, language, style) for figure in scene.figures]
    if language == "en":
        ground = " and ".join(scene.background)
        return f"{' and '.join(phrases)} on {_article(ground)} {ground} background"
    ground = "和".join(WORDS[name] for name in scene.background)
    return f"{'，'.join(phrases)}，背景为{ground}"


def vary_text(rng: np.random.Generator, text: str) -> str:
    """Vary how a caption is written: with or without a capital letter and a full stop."""
    if rng.random() < 0.5:
        return text
    return text[0].upper() + text[1:] + ("." if text[0].isascii() else "。")


def _figure(figure: Figure, frames: int | None, language: Language, style: str) -> str:
    if language == "en":
        name = " ".join(word for word in (style, figure.colour, figure.shape) if word)
        return " ".join([_article(name), name, *_motion(figure, frames)])
    styled = f"{WORDS[style]}的" if style else ""
    motion = _motion(figure, frames)
    chinese = {
        0: "",
        2: "".join(WORDS[word] for word in reversed(motion[-2:])),
        4: f"弹回后{''.join(WORDS[word] for word in reversed(motion[-2:]))}",
    }[len(motion)]
    return f"一个{styled}{WORDS[figure.colour]}{WORDS[figure.shape]}{chinese}"


def _motion(figure: Figure, frames: int | None) -> list[str]:
    if frames is None:
        return []
    if figure.turn:
        return ["turns", figure.turn]
    bounce = ["bounces", "and"] if figure.bounces(frames) else []
    return [*bounce, "moves", str(figure.heading_at(frames - 1))]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
