"""The storyboard: a script, or a topic that one is written of → a clip for each scene, in parallel → one video.

Each scene is a job of its own, a part of this one, so it survives what a job survives.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from fractions import Fraction
from typing import Any, cast

from composition.graphs.calls import Models, Transport, stop_everywhere
from composition.graphs.fields import completed
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.storyboard.request import FILM, StoryboardRequest
from composition.graphs.storyboard.scenes import Board, job_of
from composition.graphs.storyboard.screenwriter import Screenwriter
from composition.graphs.storyboard.script import Scene, Script, sentences
from composition.media.title_card import make_title_card
from composition.records.artifacts import Artifacts
from composition.records.store import share_store
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import InvalidParameter, ModelFailed
from services.frames import Clip, Fact, Item, Progress
from services.limits import draw_seed

POLL_S = 0.25
"""How often the scenes' jobs are looked at."""
PERCENT = 100


class Storyboard:
    """The graph.

    Args:
        models: those that take its roles; only `describe`, the writer, is called from here.
        settings: what the configuration says, with the `database` of the jobs.
        transport: the exceptions of the calls.
    """

    def __init__(self, models: Models, settings: GraphSettings, transport: Transport) -> None:
        self._describer = models.describe if "describe" in models else None
        self._writer = Screenwriter(self._describer, transport) if self._describer is not None else None
        self._settings = settings
        self._transport = transport
        self._store = share_store(settings.database)
        self._artifacts = Artifacts(settings.artifacts)

    async def run(self, request: StoryboardRequest, known: Known = NOTHING_KNOWN) -> AsyncIterator[Item]:
        """Yield how the scenes' jobs stand, and of each scene in its order the clip, once that is there.

        Raises:
            InvalidParameter: it was not asked for as a job.
            ModelFailed: a scene cannot be made and `fallback` is `error`, or none of them can.
        """
        if not known.key:
            raise InvalidParameter("a storyboard is made of jobs; ask for it over HTTP", param="model")
        request = completed(request, self._settings.defaults)
        if known.again and self._describer is not None:
            await stop_everywhere(self._describer, known.key, self._transport)
        facts = dict(known.facts)
        async with aclosing(self._scripted(request, known.key, facts)) as items:
            async for item in items:
                if isinstance(item, Fact):
                    facts[item.name] = item.value
                yield item
        parent = await asyncio.to_thread(self._store.get_job, known.key)
        script = request.script or Script.model_validate_json(str(facts["script"]))
        prompts = cast("list[str]", json.loads(str(facts["prompts"])))
        board = Board(request, parent, script, prompts, draw_seed(request.seed))
        yield Fact("frames_total", board.frames)
        films = self._settings.role_defaults.get(FILM, {})
        for index, scene in enumerate(script.scenes):
            await asyncio.to_thread(self._store.create_child, job_of(board, scene, index, films))
        async with aclosing(self._shown(board)) as items:
            async for item in items:
                yield item

    async def _scripted(self, request: StoryboardRequest, key: str, facts: Mapping[str, Any]) -> AsyncGenerator[Item]:
        """Yield the facts `script`, `script_source` and `prompts`, those of them that are not known."""
        script = request.script
        if script is None and "script" not in facts:
            topic = request.topic or ""
            if self._writer is None:
                written = sentences(topic, request.scenes, request.scene_s)
                yield Fact("script", written.model_dump_json())
                yield Fact("script_source", "sentences")
                script = written
            else:
                async with aclosing(self._writer.script(topic, request.scenes, request.scene_s, key)) as items:
                    async for item in items:
                        if isinstance(item, Fact) and item.name == "script":
                            script = Script.model_validate_json(str(item.value))
                        yield item
        elif request.script is not None:
            yield Fact("script_source", "request")
        if "prompts" in facts:
            return
        script = script or Script.model_validate_json(str(facts["script"]))
        if self._writer is None or not request.write_prompts:
            descriptions = [scene.description for scene in script.scenes]
            yield Fact("prompts", json.dumps(descriptions, ensure_ascii=False))
            return
        async with aclosing(self._writer.prompts(script.scenes, key)) as items:
            async for item in items:
                yield item

    async def _shown(self, board: Board) -> AsyncGenerator[Item]:
        """Yield how far the scenes are, and the clips as they are there, in the order of the scenes."""
        scenes = board.script.scenes
        said, shown = -1, 0
        while True:
            made = await asyncio.to_thread(self._made, board)
            percent = sum(PERCENT if each.has_ended else int(PERCENT * each.progress) for each in made)
            if percent != said:
                said = percent
                yield Progress("scenes", percent, PERCENT * len(scenes))
            size = _size(board.request, scenes, made)
            while size and shown < len(scenes) and made[shown].has_ended:
                for fact in _lost(scenes, made, shown):
                    yield fact
                url = await asyncio.to_thread(self._clip, board, scenes[shown], made[shown], size)
                yield Clip(url, board.fit(scenes[shown], *size))
                shown += 1
            if shown == len(scenes):
                return
            await asyncio.sleep(POLL_S)

    def _made(self, board: Board) -> list[Job]:
        """How the scenes' jobs stand, in the order of the scenes."""
        jobs = {job.id: job for job in self._store.list_children([board.parent.id])[board.parent.id]}
        return [jobs.get(board.id_of(scene)) or _deleted() for scene in board.script.scenes]

    def _clip(self, board: Board, scene: Scene, job: Job, size: tuple[int, int]) -> str:
        """Where a scene's clip lies; in place of one that could not be made, a card that says so."""
        if job.status == "completed":
            return self._artifacts.get_url(str(job.results[job.main or VIDEO]))
        text = f"Scene {scene.scene_number}\n{scene.description}"
        card = make_title_card(text, *size, board.rate, Fraction(str(scene.duration)))
        key = f"videos/{board.parent.id}/placeholder-{scene.scene_number:03d}.mp4"
        self._artifacts.put(key, card)
        return self._artifacts.get_url(key)


def _size(request: StoryboardRequest, scenes: Sequence[Scene], made: Sequence[Job]) -> tuple[int, int] | None:
    """(width, height) of the video, that of the first scene that is there; None while that is not known.

    Raises ModelFailed where the video cannot be made any more.
    """
    failed = [(scene, job) for scene, job in zip(scenes, made, strict=True) if job.status == "failed"]
    if failed and (request.fallback == "error" or len(failed) == len(made)):
        scene, job = failed[0]
        none = "no scene could be made; " if len(failed) == len(made) else ""
        raise ModelFailed(f"{none}scene {scene.scene_number}: {job.error_message}")
    for job in made:
        if job.status == "completed" and job.width and job.height:
            return job.width, job.height
        if not job.has_ended:
            return None
    return None


def _lost(scenes: Sequence[Scene], made: Sequence[Job], shown: int) -> list[Fact]:
    """What is to be told where the scene that is shown next could not be made."""
    if made[shown].status == "completed":
        return []
    lost = [
        (scene.scene_number, job)
        for scene, job in zip(scenes[: shown + 1], made, strict=False)
        if job.status == "failed"
    ]
    numbers = ", ".join(str(number) for number, _ in lost)
    reasons = "; ".join(f"scene {number} is a placeholder: {job.error_message}" for number, job in lost)
    return [Fact("placeholders", numbers), Fact("degraded", reasons)]


def _deleted() -> Job:
    """Stands for a scene's job that somebody has deleted."""
    return Job(status="failed", error_code="deleted", error_message="it was deleted", progress=0.0)
