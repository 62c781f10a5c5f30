"""InternVL as a writer: a topic → a script, and a scene's description → the prompt of its picture."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import cast

from composition.graphs.calls import Handle, Transport, call_in_order, open_stream, stream
from composition.graphs.storyboard.script import (
    Malformed,
    Scene,
    parse_script,
    picture_prompt,
    split_topic,
    write_picture_question,
    write_question,
    write_repair,
)
from services.errors import LimitExceeded
from services.frames import Fact, Item, StageDone, Text
from services.internvl.request import DescribeRequest

STAGE = "script"
WINDOW = 4
"""Questions under way at a time."""
SCRIPT_TOKENS = 2048
PROMPT_TOKENS = 128


class Screenwriter:
    """Asks InternVL's language model, which sees no picture here."""

    def __init__(self, internvl: Handle, transport: Transport) -> None:
        self._internvl = internvl
        self._transport = transport

    async def script(self, topic: str, scenes: int | None, seconds: float, key: str) -> AsyncGenerator[Item]:
        """Yield what is written as it is written, then the facts `script` (JSON) and `script_source`.

        The source is `model`; or `model, repaired` where the first answer was no script and the second one was; or
        `sentences` where neither was, or the model cannot hold the question: then the topic's own sentences are it.
        """
        answer, script, source = "", None, "sentences"
        asked = write_question(topic, scenes)
        for attempt in ("model", "model, repaired"):
            pieces: list[str] = []
            try:
                async with aclosing(self._answered(asked, SCRIPT_TOKENS, key)) as items:
                    async for item in items:
                        if isinstance(item, Text):
                            pieces.append(item.piece)
                        yield item
                answer = "".join(pieces)
                script, source = parse_script(answer, scenes), attempt
                break
            except Malformed as error:
                yield Fact("script_refused", error.reason)
                asked = write_repair(topic, scenes, answer, error.reason)
            except LimitExceeded as error:
                yield Fact("script_refused", error.message)
                break
        yield Fact("script", (script or split_topic(topic, scenes, seconds)).model_dump_json())
        yield Fact("script_source", source)

    async def prompts(self, scenes: Sequence[Scene], key: str) -> AsyncGenerator[Item]:
        """Yield at last the fact `prompts`: a JSON list, of each scene the model's words or else its description."""
        prompts: list[str] = []
        calls = (partial(self._prompt, scene, f"{key}-{scene.scene_number}" if key else "") for scene in scenes)
        async with aclosing(call_in_order(cast("list[Callable[[], Awaitable[str]]]", calls), WINDOW)) as found:
            async for prompt in found:
                prompts.append(prompt)  # noqa: PERF401 - as they come
        yield Fact("prompts", json.dumps(prompts, ensure_ascii=False))

    async def _prompt(self, scene: Scene, key: str) -> str:
        try:
            asked = write_picture_question(scene.description, scene.style)
            async with aclosing(self._answered(asked, PROMPT_TOKENS, key)) as items:
                pieces = [item.piece async for item in items if isinstance(item, Text)]
        except LimitExceeded:  # longer than the model's context
            return scene.description
        return picture_prompt("".join(pieces), scene.description)[0]

    async def _answered(self, asked: str, tokens: int, key: str) -> AsyncGenerator[Item]:
        request = DescribeRequest(prompt=asked, max_new_tokens=tokens)
        async with open_stream(stream(self._internvl, "describe", request, None, key), self._transport) as items:
            async for item in items:
                match item:
                    case Text():
                        yield Text(STAGE, item.piece)
                    case StageDone():
                        yield StageDone(STAGE, item.model, item.source, item.revision, item.replica, item.seconds)
                    case _:
                        pass
