"""Writes scripts and image prompts with the language model of a describing model."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from composition.graphs.calls import Handle, Transport, call_in_order, open_stream, stream
from composition.graphs.storyboard.script import (
    Malformed,
    Scene,
    parse_image_prompt,
    parse_script,
    split_topic,
    write_image_question,
    write_question,
    write_repair,
)
from services.errors import LimitExceeded
from services.frames import Fact, Item, StageDone, Text
from services.internvl.request import DescribeRequest
from services.roles import Describe

STAGE = "script"
WINDOW = 4
"""Maximum number of concurrent requests for image prompts."""
SCRIPT_TOKENS = 2048
"""Maximum length of a script."""
PROMPT_TOKENS = 128
"""Maximum length of an image prompt."""


class Screenwriter:
    """Sends text prompts, without pictures, to the model of the role `describe`."""

    def __init__(self, describer: Handle[Describe[Any]], transport: Transport) -> None:
        self._describer = describer
        self._transport = transport

    async def write_script(self, topic: str, scenes: int | None, seconds: float, key: str) -> AsyncGenerator[Item]:
        """Yield the model's text piece by piece, then the facts `script` (JSON) and `script_source`.

        The source is `model`, `model, repaired` if only the second answer is a valid script, or `sentences` if neither
        is or the prompt exceeds the model's context: then the sentences of the topic become the scenes.
        """
        answer, script, source = "", None, "sentences"
        prompt = write_question(topic, scenes)
        for attempt in ("model", "model, repaired"):
            pieces: list[str] = []
            try:
                async with aclosing(self._ask(prompt, SCRIPT_TOKENS, key)) as items:
                    async for item in items:
                        if isinstance(item, Text):
                            pieces.append(item.piece)
                        yield item
                answer = "".join(pieces)
                script, source = parse_script(answer, scenes), attempt
                break
            except Malformed as error:
                yield Fact("script_refused", error.reason)
                prompt = write_repair(topic, scenes, answer, error.reason)
            except LimitExceeded as error:
                yield Fact("script_refused", error.message)
                break
        yield Fact("script", (script or split_topic(topic, scenes, seconds)).model_dump_json())
        yield Fact("script_source", source)

    async def write_prompts(self, scenes: Sequence[Scene], key: str) -> AsyncGenerator[Item]:
        """Yield the fact `prompts`, a JSON list with one image prompt per scene."""
        prompts: list[str] = []
        calls = (partial(self._write_prompt, scene, f"{key}-{scene.scene_number}" if key else "") for scene in scenes)
        async with aclosing(call_in_order(cast("list[Callable[[], Awaitable[str]]]", calls), WINDOW)) as found:
            prompts += [prompt async for prompt in found]
        yield Fact("prompts", json.dumps(prompts, ensure_ascii=False))

    async def _write_prompt(self, scene: Scene, key: str) -> str:
        """Return the model's prompt for a scene, or the scene's description if the answer is not usable."""
        try:
            prompt = write_image_question(scene.description, scene.style)
            async with aclosing(self._ask(prompt, PROMPT_TOKENS, key)) as items:
                pieces = [item.piece async for item in items if isinstance(item, Text)]
        except LimitExceeded:  # the prompt exceeds the model's context
            return scene.description
        return parse_image_prompt("".join(pieces), scene.description)[0]

    async def _ask(self, prompt: str, tokens: int, key: str) -> AsyncGenerator[Item]:
        request = DescribeRequest(prompt=prompt, max_new_tokens=tokens)
        call = stream(self._describer, Describe[DescribeRequest].describe, request, None, key)
        async with open_stream(call, self._transport) as items:
            async for item in items:
                match item:
                    case Text():
                        yield Text(STAGE, item.piece)
                    case StageDone():
                        yield StageDone(STAGE, item.model, item.source, item.revision, item.replica, item.seconds)
                    case _:
                        pass
