"""InternVL as a writer: a topic → a script, and a scene's description → the prompt of its picture."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from composition.graphs.calls import Handle, Transport, in_order, opened, stream
from composition.graphs.storyboard.script import (
    Malformed,
    Scene,
    picture_prompt,
    picture_question,
    question,
    repair,
    sentences,
    written,
)
from services.errors import LimitExceeded
from services.frames import Fact, Item, StageDone, Text
from services.internvl.request import DescribeRequest
from services.roles import Describe

STAGE = "script"
WINDOW = 4
"""Questions under way at a time."""
SCRIPT_TOKENS = 2048
PROMPT_TOKENS = 128


class Screenwriter:
    """Asks InternVL's language model, which sees no picture here."""

    def __init__(self, describer: Handle[Describe[Any]], transport: Transport) -> None:
        self._describer = describer
        self._transport = transport

    async def script(self, topic: str, scenes: int | None, seconds: float, key: str) -> AsyncGenerator[Item]:
        """Yield what is written as it is written, then the facts `script` (JSON) and `script_source`.

        The source is `model`; or `model, repaired` where the first answer was no script and the second one was; or
        `sentences` where neither was, or the model cannot hold the question: then the topic's own sentences are it.
        """
        answer, script, source = "", None, "sentences"
        asked = question(topic, scenes)
        for attempt in ("model", "model, repaired"):
            pieces: list[str] = []
            try:
                async with aclosing(self._answered(asked, SCRIPT_TOKENS, key)) as items:
                    async for item in items:
                        if isinstance(item, Text):
                            pieces.append(item.piece)
                        yield item
                answer = "".join(pieces)
                script, source = written(answer, scenes), attempt
                break
            except Malformed as error:
                yield Fact("script_refused", error.reason)
                asked = repair(topic, scenes, answer, error.reason)
            except LimitExceeded as error:
                yield Fact("script_refused", error.message)
                break
        yield Fact("script", (script or sentences(topic, scenes, seconds)).model_dump_json())
        yield Fact("script_source", source)

    async def prompts(self, scenes: Sequence[Scene], key: str) -> AsyncGenerator[Item]:
        """Yield at last the fact `prompts`: a JSON list, of each scene the model's words or else its description."""
        prompts: list[str] = []
        calls = (partial(self._prompt, scene, f"{key}-{scene.scene_number}" if key else "") for scene in scenes)
        async with aclosing(in_order(cast("list[Callable[[], Awaitable[str]]]", calls), WINDOW)) as found:
            async for prompt in found:
                prompts.append(prompt)  # noqa: PERF401 - as they come
        yield Fact("prompts", json.dumps(prompts, ensure_ascii=False))

    async def _prompt(self, scene: Scene, key: str) -> str:
        try:
            asked = picture_question(scene.description, scene.style)
            async with aclosing(self._answered(asked, PROMPT_TOKENS, key)) as items:
                pieces = [item.piece async for item in items if isinstance(item, Text)]
        except LimitExceeded:  # longer than the model's context
            return scene.description
        return picture_prompt("".join(pieces), scene.description)[0]

    async def _answered(self, asked: str, tokens: int, key: str) -> AsyncGenerator[Item]:
        request = DescribeRequest(prompt=asked, max_new_tokens=tokens)
        call = stream(self._describer, Describe[DescribeRequest].describe, request, None, key)
        async with opened(call, self._transport) as items:
            async for item in items:
                match item:
                    case Text():
                        yield Text(STAGE, item.piece)
                    case StageDone():
                        yield StageDone(STAGE, item.model, item.source, item.revision, item.replica, item.seconds)
                    case _:
                        pass
