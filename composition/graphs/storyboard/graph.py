"""The storyboard: a script, written from a topic if necessary → one clip per scene, in parallel → one video.

Each scene is a child job, so it is retried and resumed like any other job.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from fractions import Fraction
from typing import Any, cast

from composition.graphs.calls import Models, Transport, stop_everywhere
from composition.graphs.fields import complete_request
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.storyboard.request import FILM, StoryboardRequest
from composition.graphs.storyboard.scenes import FilmModel, StoryboardPlan, make_scene_job
from composition.graphs.storyboard.screenwriter import Screenwriter
from composition.graphs.storyboard.script import Scene, Script, split_topic
from composition.media.title_card import make_title_card
from composition.records.artifacts import Artifacts
from composition.records.store import share_store
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import InvalidParameter, ModelFailed
from services.frames import Clip, Fact, Item, Progress
from services.limits import draw_seed

POLL_S = 0.25
"""Interval at which the child jobs are read, in seconds."""
PERCENT = 100


class Storyboard:
    """The graph.

    Args:
        models: handles by role; the storyboard itself calls only `describe`, which writes the script.
        settings: the graph's configuration, including the `database` of the jobs.
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
        """Yield the progress of the scenes, and their clips in order.

        Raises:
            InvalidParameter: the request does not belong to a job.
            ModelFailed: a scene failed and `fallback` is `error`, or all scenes failed.
        """
        if not known.key:
            raise InvalidParameter("model: a storyboard runs only as a job; request it over HTTP", param="model")
        request = complete_request(request, self._settings.defaults)
        if known.is_retry and self._describer is not None:
            await stop_everywhere(self._describer, known.key, self._transport)
        facts = dict(known.facts)
        async with aclosing(self._write_script(request, known.key, facts)) as items:
            async for item in items:
                if isinstance(item, Fact):
                    facts[item.name] = item.value
                yield item
        parent = await asyncio.to_thread(self._store.get_job, known.key)
        script = request.script or Script.model_validate_json(str(facts["script"]))
        prompts = cast("list[str]", json.loads(str(facts["prompts"])))
        plan = StoryboardPlan(request, parent, script, prompts, draw_seed(request.seed))
        yield Fact("frames_total", plan.frames)
        for sound in plan.list_sounds(self._artifacts.get_url):
            yield sound
        film = FilmModel(
            self._settings.role_kinds.get(FILM, FILM),
            self._settings.role_defaults.get(FILM, {}),
            self._settings.role_rates.get(FILM),
        )
        for index, scene in enumerate(script.scenes):
            await asyncio.to_thread(self._store.create_child, make_scene_job(plan, scene, index, film))
        async with aclosing(self._show(plan)) as items:
            async for item in items:
                yield item

    async def _write_script(
        self, request: StoryboardRequest, key: str, facts: Mapping[str, Any]
    ) -> AsyncGenerator[Item]:
        """Yield those of the facts `script`, `script_source` and `prompts` that are not known yet."""
        script = request.script
        if script is None and "script" not in facts:
            topic = request.topic or ""
            if self._writer is None:
                script = split_topic(topic, request.scenes, request.scene_s)
                yield Fact("script", script.model_dump_json())
                yield Fact("script_source", "sentences")
            else:
                async with aclosing(self._writer.write_script(topic, request.scenes, request.scene_s, key)) as items:
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
        async with aclosing(self._writer.write_prompts(script.scenes, key)) as items:
            async for item in items:
                yield item

    async def _show(self, plan: StoryboardPlan) -> AsyncGenerator[Item]:
        """Yield the progress of all scenes, and each clip as soon as it and all previous ones are ready."""
        scenes = plan.script.scenes
        reported, shown = -1, 0
        while True:
            jobs = await asyncio.to_thread(self._list_jobs, plan)
            percent = sum(PERCENT if each.has_ended else int(PERCENT * each.progress) for each in jobs)
            if percent != reported:
                reported = percent
                yield Progress("scenes", percent, PERCENT * len(scenes))
            size = _find_size(plan.request, scenes, jobs)
            while size and shown < len(scenes) and jobs[shown].has_ended:
                for fact in _report_placeholders(scenes, jobs, shown):
                    yield fact
                url = await asyncio.to_thread(self._find_clip, plan, scenes[shown], jobs[shown], size)
                yield Clip(url, plan.fit(scenes[shown], *size))
                shown += 1
            if shown == len(scenes):
                return
            await asyncio.sleep(POLL_S)

    def _list_jobs(self, plan: StoryboardPlan) -> list[Job]:
        """Return the child jobs, in the order of the scenes."""
        by_id = {job.id: job for job in self._store.list_children([plan.parent.id])[plan.parent.id]}
        return [by_id.get(plan.make_job_id(scene)) or _make_deleted_job() for scene in plan.script.scenes]

    def _find_clip(self, plan: StoryboardPlan, scene: Scene, job: Job, size: tuple[int, int]) -> str:
        """Return the URL of a scene's clip, or of a title card if the scene failed."""
        if job.status == "completed":
            return self._artifacts.get_url(str(job.results[job.main or VIDEO]))
        text = f"Scene {scene.scene_number}\n{scene.description}"
        card = make_title_card(text, *size, plan.rate, Fraction(str(scene.duration)))
        key = f"videos/{plan.parent.id}/placeholder-{scene.scene_number:03d}.mp4"
        self._artifacts.put(key, card)
        return self._artifacts.get_url(key)


def _find_size(request: StoryboardRequest, scenes: Sequence[Scene], jobs: Sequence[Job]) -> tuple[int, int] | None:
    """Return the (width, height) of the video, which is that of its first clip; None while it is not known.

    Raises:
        ModelFailed: a scene failed and `fallback` is `error`, or all scenes failed.
    """
    failed = [(scene, job) for scene, job in zip(scenes, jobs, strict=True) if job.status == "failed"]
    if failed and (request.fallback == "error" or len(failed) == len(jobs)):
        scene, job = failed[0]
        all_failed = "all scenes failed; " if len(failed) == len(jobs) else ""
        raise ModelFailed(f"{all_failed}scene {scene.scene_number}: {job.error_message}")
    for job in jobs:
        if job.status == "completed" and job.width and job.height:
            return job.width, job.height
        if not job.has_ended:
            return None
    return None


def _report_placeholders(scenes: Sequence[Scene], jobs: Sequence[Job], shown: int) -> list[Fact]:
    """Return facts about the failed scenes up to the one that is shown next, if that one failed."""
    if jobs[shown].status == "completed":
        return []
    failed = [
        (scene.scene_number, job)
        for scene, job in zip(scenes[: shown + 1], jobs, strict=False)
        if job.status == "failed"
    ]
    numbers = ", ".join(str(number) for number, _ in failed)
    reasons = "; ".join(f"scene {number} is a placeholder: {job.error_message}" for number, job in failed)
    return [Fact("placeholders", numbers), Fact("degraded", reasons)]


def _make_deleted_job() -> Job:
    """Return a substitute for a child job that was deleted."""
    return Job(status="failed", error_code="deleted", error_message="the job was deleted", progress=0.0)
