"""What a storyboard films: a script of scenes, and how one is made of a topic.

A language model may write it; what that answers is read strictly, and asked for once more with the reason. Without one,
the topic's own sentences are the scenes. Nothing here asks a model or opens a file.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sized
from itertools import pairwise
from typing import Annotated, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from services.errors import InvalidParameter, LimitExceeded, PayloadTooLarge
from services.flux.request import Lora, Painting
from services.json_text import UnusableText, scan_json
from services.limits import MAX_TEXT, from_json

MAX_SCENES = 100
MAX_SCENE_S = 60
"""Seconds."""
MAX_TITLE = 200
"""Characters."""
MAX_TOPIC = 4_000
"""Characters: with what is asked about it, a topic is no longer than a prompt may be."""
MAX_PICTURE_PROMPT = 1_000
"""Characters that a model's prompt for a picture may have to be used."""
SHOWN_REASON = 300
"""Characters of a reason."""
TITLE_LENGTH = 60
"""Characters of a title that is made of a topic's first words."""


class Malformed(Exception):
    """What a language model answered is no script. `reason` is short, and fit to be shown to the model."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _painted(value: object) -> object:
    """Read low-rank adaptations in every form in which Flux itself takes them."""
    try:
        return Painting.model_validate({"loras": value}).loras
    except ValidationError as error:
        raise ValueError(_said(error, skip=1)) from error
    except InvalidParameter as error:
        raise ValueError(error.message) from error


class Scene(BaseModel):
    """One scene of a script."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)

    scene_number: Annotated[int, Field(ge=1, le=MAX_SCENES)]
    """From 1, each once."""
    description: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What is to be seen."""
    duration: Annotated[float, Field(gt=0, le=MAX_SCENE_S)]
    """Seconds."""
    face: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The id of a file: a picture of whoever is to be seen in it."""
    loras: Annotated[
        tuple[Lora, ...],
        BeforeValidator(_painted, json_schema_input_type=Lora | str | tuple[Lora | str, ...]),
        Field(validation_alias=AliasChoices("lora", "loras")),
    ] = ()
    """Low-rank adaptations of its picture; a text is `name` or `name:weight`. Without, those of the whole film."""
    style: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    """How it is to look."""


def _few(value: object) -> object:
    """Count the scenes before each is looked at."""
    if isinstance(value, Sized) and not isinstance(value, str) and not 1 <= len(value) <= MAX_SCENES:
        raise ValueError(f"must be 1 to {MAX_SCENES} scenes, not {len(value)}")
    return value


def _in_order(scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    ordered = tuple(sorted(scenes, key=lambda scene: scene.scene_number))
    numbers = [scene.scene_number for scene in ordered]
    if numbers != list(range(1, len(ordered) + 1)):
        raise ValueError(f"scene_number must be 1 to {len(ordered)}, each once, not {numbers}")
    return ordered


class Script(BaseModel):
    """What is filmed, scene after scene. It may be given as the text of a JSON object."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: Annotated[str, Field(max_length=MAX_TITLE)] = ""
    """What the video is called."""
    scenes: Annotated[tuple[Scene, ...], Field(fail_fast=True), BeforeValidator(_few), AfterValidator(_in_order)]
    """In the order of their numbers, which are 1, 2, 3 and so on; they may be given in any."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return from_json(value)


QUESTION = """\
Write the script of a short film about the topic below: {how_many}, filmed one after the other.

Answer with one JSON object and nothing else, with no word before or after it. It has just these fields:
- "title": a string of at most {max_title} characters.
- "scenes": a list of objects with the fields
  - "scene_number": an integer; 1 for the first scene, then 2, 3 and so on.
  - "description": a string: what is to be seen, in one or two plain sentences. Each is read by itself, so it names \
people and places anew and never says "he", "she" or "the same".
  - "duration": a number of seconds, more than 0 and at most {max_scene_s}. 3 to 6 is usual.
  - "style": optional, a string: how the scene is to look.

An example of the form, with two scenes:
{example}

Write all texts in the language of the topic.

Topic: {topic}"""

EXAMPLE = """\
{"title": "The boat", "scenes": [
{"scene_number": 1, "description": "A small red boat leaves a quiet harbour at dawn.", "duration": 4},
{"scene_number": 2, "description": "The red boat rolls on high waves under dark clouds.", "duration": 3.5, \
"style": "grainy black and white film"}]}"""

REPAIR = """

You were asked this before, and your answer could not be used: {reason}. Your answer was:
{answer}

Answer again: the whole JSON object, put right, and nothing else."""

PICTURE = """\
Turn the description of a film scene into one prompt for a model that makes pictures of texts. Say what is to be seen, \
then the setting, the light, the camera's distance and the mood. Write one line of at most 60 words, in English, and \
nothing else: no quotes, no list, no explanation.
{in_style}
Description: {description}"""

FENCED = re.compile(r"```(?:[A-Za-z]*[ \t]*\r?\n)?(.*?)```", re.DOTALL)
MARK = re.compile(r"<\|.*?\|>")
"""How models write what is no text."""
QUOTES = ('""', "''", "“”", "‘’", "「」", "『』", "«»")
UNFIT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, halves of characters, separators of lines and paragraphs."""
ENDS = (
    re.compile(r"""([.!?…]["'”’»)\]]*)\s+"""),  # Latin: only before a space, so that 3.5 stays whole
    re.compile(r"""([。！？]+["'”’」』）】]*)"""),
)
ITEM = re.compile(r"^\s*(?:\(?\d{1,3}[.):]\s+|\d{1,3}[、．]\s*|[一二三四五六七八九十]+、\s*|[-*•–—]\s+)+")
"""What stands before an item of a list."""


def question(topic: str, scenes: int | None = None) -> str:
    """What to ask a language model for a script of so many scenes; None leaves that to it.

    Raises:
        ValueError: the topic has more than MAX_TOPIC characters.
    """
    if len(topic) > MAX_TOPIC:
        raise ValueError(f"topic: at most {MAX_TOPIC} characters, got {len(topic)}")
    how_many = f"exactly {scenes} scene{'s' * (scenes != 1)}"
    if scenes is None:
        how_many = f"as many scenes as it needs, usually 4 to 8 and at most {MAX_SCENES}"
    limits = {"max_title": MAX_TITLE, "max_scene_s": MAX_SCENE_S, "example": EXAMPLE}
    return QUESTION.format(topic=topic, how_many=how_many, **limits)


def repair(topic: str, scenes: int | None, answer: str, reason: str) -> str:
    """What to ask after an answer that is `Malformed` for a reason; it shows as much of the answer as there is room."""
    asked, said = question(topic, scenes), _short(reason)
    room = MAX_TEXT - len(asked) - len(REPAIR.format(reason=said, answer=""))
    return asked + REPAIR.format(reason=said, answer=answer[:room])


def written(text: str, scenes: int | None = None) -> Script:
    """Read what a language model answered: one JSON object, alone or in one fence of backticks.

    Args:
        text: the answer.
        scenes: how many were asked for; None takes any number.

    Raises:
        Malformed: anything else. Faces and adaptations are not for the model to choose: it knows of no files.
    """
    try:
        script = Script.model_validate(_object(text))
    except ValidationError as error:
        raise Malformed(_short(_said(error))) from error
    if scenes not in (None, len(script.scenes)):
        raise Malformed(f"{scenes} scenes were asked for, and it has {len(script.scenes)}")
    return script


def sentences(topic: str, scenes: int | None, seconds: float) -> Script:
    """Make a script of a topic's own sentences, or of the items of a list.

    Args:
        topic: not blank.
        scenes: how many, at most MAX_SCENES. Where the topic has fewer sentences they come again from the first, where
            it has more they are joined evenly. None is as many as it has, up to MAX_SCENES.
        seconds: how long each scene lasts.

    Raises:
        ValidationError: the topic is blank, or one of the numbers is not what it may be in a script.
    """
    found = _split(topic) or [topic]
    count = min(len(found), MAX_SCENES) if scenes is None else scenes
    title = _first_words(found[0])
    if 0 < count < len(found):
        ends = [len(found) * k // count for k in range(count + 1)]
        found = [_joined(found[first:stop]) for first, stop in pairwise(ends)]
    told = [found[k % len(found)][:MAX_TEXT] for k in range(count)]
    filmed = [{"scene_number": k, "description": text, "duration": seconds} for k, text in enumerate(told, 1)]
    return Script.model_validate({"title": title, "scenes": filmed})


def picture_question(description: str, style: str | None = None) -> str:
    """What to ask a language model for the prompt of a scene's picture; of long texts, the beginning."""
    in_style = f"\nThe style: {style[: MAX_TEXT // 4]}" if style else ""
    return PICTURE.format(in_style=in_style, description=description[: MAX_TEXT // 2])


def picture_prompt(answer: str, description: str) -> tuple[str, bool]:
    """Return the prompt for a scene's picture, and whether it is the model's.

    An answer is used, without quotes and fences around it, when it is one line of plain text of 1 to MAX_PICTURE_PROMPT
    characters; else the description is the prompt.
    """
    text = answer.strip()
    fenced = FENCED.fullmatch(text)
    text = fenced[1].strip() if fenced else text
    if text[:1] + text[-1:] in QUOTES and not {text[0], text[-1]} & {*text[1:-1]}:
        text = text[1:-1].strip()
    fit = 0 < len(text) <= MAX_PICTURE_PROMPT and any(map(str.isalnum, text)) and "```" not in text
    if not fit or MARK.search(text) or any(unicodedata.category(character) in UNFIT for character in text):
        return description, False
    return text, True


def _object(text: str) -> dict[str, object]:
    text = text.strip()
    fenced = FENCED.fullmatch(text)
    text = fenced[1] if fenced else text
    try:
        scan_json(text.encode())
        found = json.loads(text, object_pairs_hook=_asked_for)
    except (LimitExceeded, PayloadTooLarge) as error:
        raise Malformed(_short(error.message)) from error
    except UnusableText as error:
        raise Malformed(_short(str(error))) from error
    except ValueError as error:
        raise Malformed(_short(f"it is not one JSON object and nothing else: {error}")) from error
    if not isinstance(found, dict):
        raise Malformed("it is no JSON object")
    return cast("dict[str, object]", found)


def _asked_for(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is in one object twice")
    if not found.keys().isdisjoint(("face", "lora", "loras")):
        raise ValueError("faces and LoRAs are not for you to choose")
    return found


def _said(error: ValidationError, skip: int = 0) -> str:
    """The first thing that is wrong, behind the path of its field less the first `skip` names."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(name) for name in first["loc"][skip:])
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _short(reason: str) -> str:
    """One line that can be printed."""
    line = " ".join(reason.split())[:SHOWN_REASON]
    return "".join(character if character.isprintable() else "?" for character in line)


def _split(text: str) -> list[str]:
    for end in ENDS:
        text = end.sub(r"\1\n", text)
    pieces = [ITEM.sub("", line).strip() for line in text.splitlines()]
    return [piece for piece in pieces if any(map(str.isalpha, piece))]


def _joined(pieces: Iterable[str]) -> str:
    """Latin sentences with a space between them, Chinese and Japanese ones without."""
    text = ""
    for piece in pieces:
        text += f" {piece}" if text and text[-1].isascii() else piece
    return text


def _first_words(text: str) -> str:
    if len(text) <= TITLE_LENGTH:
        return text
    words = text[:TITLE_LENGTH]
    return f"{words.rpartition(' ')[0] or words}…"
