"""Scripts: their schema, the prompts that make a language model write one, and the parser of its answers.

Answers are parsed strictly; a rejected one can be sent back with the reason. Without a language model the sentences of
a topic become the scenes. This module calls no model and opens no file.
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
from services.flux.request import Painting
from services.json_text import UnusableText, scan_json
from services.limits import MAX_TEXT, parse_json_object
from services.weights.request import Lora

MAX_SCENES = 100
MAX_SCENE_S = 60
"""Seconds."""
MAX_TITLE = 200
"""Characters."""
MAX_TOPIC = 4_000
"""Characters. Chosen so that a topic and its instructions fit into one prompt."""
MAX_IMAGE_PROMPT = 1_000
"""Characters. A longer image prompt is rejected, and the description is used."""
MAX_REASON = 300
"""Characters of `Malformed.reason`."""
SHORT_TITLE = 60
"""Characters of a title that is taken from the first words of a topic."""


class Malformed(Exception):
    """The answer of a language model is not a valid script. `reason` is short and can be sent back to the model."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _parse_loras(value: object) -> object:
    """Parse LoRAs in every form that Flux accepts."""
    try:
        return Painting.model_validate({"loras": value}).loras
    except ValidationError as error:
        raise ValueError(_describe_error(error, skip=1)) from error
    except InvalidParameter as error:
        raise ValueError(error.message) from error


class Scene(BaseModel):
    """One scene of a script."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)

    scene_number: Annotated[int, Field(ge=1, le=MAX_SCENES)]
    """Position of the scene, from 1."""
    description: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What the scene shows."""
    duration: Annotated[float, Field(gt=0, le=MAX_SCENE_S)]
    """Duration in seconds."""
    face: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The id of a picture file of the person to show."""
    audio: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The id of a sound file, or of a video, whose sound begins with the scene and is cut off at its end."""
    loras: Annotated[
        tuple[Lora, ...],
        BeforeValidator(_parse_loras, json_schema_input_type=Lora | str | tuple[Lora | str, ...]),
        Field(validation_alias=AliasChoices("lora", "loras")),
    ] = ()
    """LoRAs for the picture of the scene, as `name` or `name:weight`. Default: those of the storyboard."""
    style: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] | None = None
    """The visual style."""


def _check_count(value: object) -> object:
    """Check the number of scenes before the scenes are validated."""
    if isinstance(value, Sized) and not isinstance(value, str) and not 1 <= len(value) <= MAX_SCENES:
        raise ValueError(f"must have 1 to {MAX_SCENES} scenes, not {len(value)}")
    return value


def _sort_scenes(scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
    ordered = tuple(sorted(scenes, key=lambda scene: scene.scene_number))
    numbers = [scene.scene_number for scene in ordered]
    if numbers != list(range(1, len(ordered) + 1)):
        raise ValueError(f"scene numbers must be 1 to {len(ordered)}, each exactly once, not {numbers}")
    return ordered


class Script(BaseModel):
    """A sequence of scenes. JSON text is accepted as well."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: Annotated[str, Field(max_length=MAX_TITLE)] = ""
    """The title of the video."""
    scenes: Annotated[
        tuple[Scene, ...], Field(fail_fast=True), BeforeValidator(_check_count), AfterValidator(_sort_scenes)
    ]
    """The scenes, sorted by `scene_number`; the numbers must be 1, 2, 3 and so on."""

    @model_validator(mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        return parse_json_object(value)


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
SPECIAL_TOKEN = re.compile(r"<\|.*?\|>")
"""A control token of a language model."""
QUOTES = ('""', "''", "“”", "‘’", "「」", "『』", "«»")
REJECTED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, surrogates, line and paragraph separators."""
SENTENCE_ENDS = (
    re.compile(r"""([.!?…]["'”’»)\]]*)\s+"""),  # Latin: only before a space, so that 3.5 is not split
    re.compile(r"""([。！？]+["'”’」』）】]*)"""),
)
LIST_MARKER = re.compile(r"^\s*(?:\(?\d{1,3}[.):]\s+|\d{1,3}[、．]\s*|[一二三四五六七八九十]+、\s*|[-*•–—]\s+)+")
"""The number or bullet before a list item."""


def write_question(topic: str, scenes: int | None = None) -> str:
    """Return the prompt that asks a language model for a script.

    Args:
        topic: the subject of the script.
        scenes: number of scenes; None lets the model choose.

    Raises:
        ValueError: the topic has more than MAX_TOPIC characters.
    """
    if len(topic) > MAX_TOPIC:
        raise ValueError(f"topic: must have at most {MAX_TOPIC} characters, got {len(topic)}")
    how_many = f"exactly {scenes} scene{'s' * (scenes != 1)}"
    if scenes is None:
        how_many = f"as many scenes as it needs, usually 4 to 8 and at most {MAX_SCENES}"
    limits = {"max_title": MAX_TITLE, "max_scene_s": MAX_SCENE_S, "example": EXAMPLE}
    return QUESTION.format(topic=topic, how_many=how_many, **limits)


def write_repair(topic: str, scenes: int | None, answer: str, reason: str) -> str:
    """Return the prompt that asks for a correction of a `Malformed` answer. A long answer is quoted in part."""
    question, reason = write_question(topic, scenes), _shorten(reason)
    room = MAX_TEXT - len(question) - len(REPAIR.format(reason=reason, answer=""))
    return question + REPAIR.format(reason=reason, answer=answer[:room])


def parse_script(text: str, scenes: int | None = None) -> Script:
    """Parse the answer of a language model: one JSON object, optionally in one code fence.

    Args:
        text: the answer.
        scenes: the requested number of scenes; None accepts any number.

    Raises:
        Malformed: the answer is not a valid script, or sets faces, sounds or LoRAs, which the model cannot know.
    """
    try:
        script = Script.model_validate(_parse_object(text))
    except ValidationError as error:
        raise Malformed(_shorten(_describe_error(error))) from error
    if scenes not in (None, len(script.scenes)):
        raise Malformed(f"the script must have {scenes} scenes, and has {len(script.scenes)}")
    return script


def split_topic(topic: str, scenes: int | None, seconds: float) -> Script:
    """Make a script whose scenes are the sentences, or list items, of a topic.

    Args:
        topic: not blank.
        scenes: number of scenes, at most MAX_SCENES. If the topic has fewer sentences they are repeated, if it has more
            they are grouped evenly. None uses one scene per sentence, up to MAX_SCENES.
        seconds: duration of each scene.

    Raises:
        ValidationError: the topic is blank, or a number is outside the limits of a script.
    """
    sentences = _split_sentences(topic) or [topic]
    count = min(len(sentences), MAX_SCENES) if scenes is None else scenes
    title = _shorten_title(sentences[0])
    if 0 < count < len(sentences):
        ends = [len(sentences) * k // count for k in range(count + 1)]
        sentences = [_join_sentences(sentences[first:stop]) for first, stop in pairwise(ends)]
    descriptions = [sentences[k % len(sentences)][:MAX_TEXT] for k in range(count)]
    fields = [{"scene_number": k, "description": text, "duration": seconds} for k, text in enumerate(descriptions, 1)]
    return Script.model_validate({"title": title, "scenes": fields})


def write_image_question(description: str, style: str | None = None) -> str:
    """Return the prompt that asks a language model for the image prompt of a scene. Long texts are cut off."""
    in_style = f"\nThe style: {style[: MAX_TEXT // 4]}" if style else ""
    return PICTURE.format(in_style=in_style, description=description[: MAX_TEXT // 2])


def parse_image_prompt(answer: str, description: str) -> tuple[str, bool]:
    """Return the image prompt of a scene, and whether it is the model's answer.

    The answer, without surrounding quotes and code fence, is used if it is one line of plain text of 1 to
    MAX_IMAGE_PROMPT characters. Otherwise the description is the prompt.
    """
    text = answer.strip()
    fenced = FENCED.fullmatch(text)
    text = fenced[1].strip() if fenced else text
    if text[:1] + text[-1:] in QUOTES and not {text[0], text[-1]} & {*text[1:-1]}:
        text = text[1:-1].strip()
    is_usable = 0 < len(text) <= MAX_IMAGE_PROMPT and any(map(str.isalnum, text)) and "```" not in text
    if (
        not is_usable
        or SPECIAL_TOKEN.search(text)
        or any(unicodedata.category(character) in REJECTED_CATEGORIES for character in text)
    ):
        return description, False
    return text, True


def _parse_object(text: str) -> dict[str, object]:
    text = text.strip()
    fenced = FENCED.fullmatch(text)
    text = fenced[1] if fenced else text
    try:
        scan_json(text.encode())
        found = json.loads(text, object_pairs_hook=_check_names)
    except (LimitExceeded, PayloadTooLarge) as error:
        raise Malformed(_shorten(error.message)) from error
    except UnusableText as error:
        raise Malformed(_shorten(str(error))) from error
    except ValueError as error:
        raise Malformed(_shorten(f"it is not one JSON object and nothing else: {error}")) from error
    if not isinstance(found, dict):
        raise Malformed("it is not a JSON object")
    return cast("dict[str, object]", found)


def _check_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    if not found.keys().isdisjoint(("face", "audio", "lora", "loras")):
        raise ValueError("faces, sounds and LoRAs must not be set")
    return found


def _describe_error(error: ValidationError, skip: int = 0) -> str:
    """Return the first error as `path: message`, without the first `skip` names of the path."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(name) for name in first["loc"][skip:])
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message


def _shorten(reason: str) -> str:
    """Return the reason as one printable line of at most MAX_REASON characters."""
    line = " ".join(reason.split())[:MAX_REASON]
    return "".join(character if character.isprintable() else "?" for character in line)


def _split_sentences(text: str) -> list[str]:
    for end in SENTENCE_ENDS:
        text = end.sub(r"\1\n", text)
    pieces = [LIST_MARKER.sub("", line).strip() for line in text.splitlines()]
    return [piece for piece in pieces if any(map(str.isalpha, piece))]


def _join_sentences(pieces: Iterable[str]) -> str:
    """Join sentences, with a space after Latin ones and none after Chinese or Japanese ones."""
    text = ""
    for piece in pieces:
        text += f" {piece}" if text and text[-1].isascii() else piece
    return text


def _shorten_title(text: str) -> str:
    if len(text) <= SHORT_TITLE:
        return text
    words = text[:SHORT_TITLE]
    return f"{words.rpartition(' ')[0] or words}…"
