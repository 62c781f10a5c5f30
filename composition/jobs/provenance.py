"""How the files of a job were made, read from the job's record."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from composition.graphs.branching import FIELD as BRANCH
from composition.media.marks.provenance import Ingredient, ModelUse, Provenance
from composition.records.artifacts import Artifacts
from composition.records.store import Store
from composition.records.tables import COPIED_FRAMES, Job
from services.errors import NotFound
from services.frames import JsonValue
from services.weights.loras.files import LORA_HASHES

WRITTEN = ("caption", "script", "prompts")
"""Facts with prompts that a model wrote, or that the script of a storyboard contains."""
MAX_ORIGINS = 1000
"""Maximum number of jobs that are followed: scenes, and the older jobs that an edit branches from."""
EDITED = {"edit": ("image",), "restyle": ("image",), "upscale": ("image", "input_video")}
"""Stage of a model → the request fields of whose file it makes an edited version."""


@dataclass
class _Origin:
    """What a result was made from: by its job, the scenes of that job, and the older jobs that it continues."""

    models: dict[ModelUse, None] = field(default_factory=dict[ModelUse, None])
    """The models in order, each once."""
    loras: dict[str, str] = field(default_factory=dict[str, str])
    media: dict[str, str] = field(default_factory=dict[str, str])
    """Key of a user's file → the request field in which it was given."""
    parents: set[str] = field(default_factory=set[str])
    """Keys of those files of which the result is an edited or a continued version."""


class OriginReader:
    """Reads how the results of jobs were made.

    Args:
        store: the database.
        artifacts: the artifact store, with the files of users.
    """

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts

    @asynccontextmanager
    async def open(self, job_id: str, variant: str, extension: str) -> AsyncGenerator[Provenance]:
        """Return how a result was made. The local copies of its ingredients exist inside the `with` block.

        Args:
            job_id: the job.
            variant: the result.
            extension: of the file, without a dot.

        Raises:
            NotFound: the job has been deleted.
        """
        job = await asyncio.to_thread(self._store.get_job, job_id)
        origin = await asyncio.to_thread(self._trace, job, variant)
        async with AsyncExitStack() as files:
            ingredients: list[Ingredient] = []
            for key, name in origin.media.items():
                try:
                    path = await files.enter_async_context(self._artifacts.open_local(self._artifacts.get_url(key)))
                except NotFound:  # deleted since the job ended
                    continue
                ingredients.append(Ingredient(name, path, is_parent=key in origin.parents, owner=job.owner))
            seed = job.facts.get("seed", job.params.get("seed"))
            yield Provenance(
                content_id=f"{job.id}/{variant}.{extension}",
                created_at=datetime.now(UTC),
                task=job.model,
                models=tuple(origin.models),
                loras=origin.loras,
                seed=seed if isinstance(seed, int) and seed >= 0 else None,
                prompts=_list_prompts(job),
                ingredients=ingredients,
                lost_ingredients=len(origin.media) - len(ingredients),
            )

    def _trace(self, job: Job, variant: str) -> _Origin:
        """Collect what a result was made from. Blocks."""
        origin = _Origin()
        for each in self._follow(job):
            only = variant if each is job else None
            for stage in self._store.list_stages_before(each.id, only):
                origin.models[ModelUse(stage.name, stage.model, stage.source, stage.revision)] = None
            origin.loras |= read_lora_hashes(each.facts)
            for name, key in each.media.items():
                # Instead of a copied frame, the job that made it is followed.
                if not (str(key).startswith(COPIED_FRAMES) and self._find_older_job(each)):
                    origin.media.setdefault(str(key), name)
        origin.parents |= _find_parents(job, {use.stage for use in origin.models})
        return origin

    def _follow(self, job: Job) -> Iterator[Job]:
        """Yield a job, its scenes and the job whose frame it begins at, and theirs."""
        seen, waiting = {job.id}, deque([job])
        while waiting:
            job = waiting.popleft()
            yield job
            scenes = self._store.list_children([job.id])[job.id]
            shown = [each for each in scenes if each.status == "completed"]  # of others, a title card is shown
            fresh = [each for each in (*shown, *self._find_older_job(job)) if each.id not in seen]
            fresh = fresh[: MAX_ORIGINS - len(seen)]
            seen |= {each.id for each in fresh}
            waiting += fresh

    def _find_older_job(self, job: Job) -> list[Job]:
        """Return the job whose frame a job begins at; none if there is none, or if it was deleted."""
        branch = job.params.get(BRANCH)
        if not isinstance(branch, Mapping):
            return []
        try:
            return [self._store.get_job(str(cast("Mapping[str, Any]", branch).get("video")), job.owner)]
        except NotFound:
            return []


def _find_parents(job: Job, stages: Collection[str]) -> set[str]:
    """Return the keys of the files of which the result of a job is an edited or a continued version."""
    fields = {name for stage in stages for name in EDITED.get(stage, ())}
    if job.params.get("join"):
        fields.add("input_video")
    return {str(key) for name, key in job.media.items() if name in fields}


def read_lora_hashes(facts: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return the SHA-256 of each LoRA file by its name, from the facts of a run."""
    return dict(json.loads(str(facts.get(LORA_HASHES, "{}"))))


def _list_prompts(job: Job) -> dict[str, str]:
    """Return the prompts of a request, and those that a model wrote for it, by field or fact."""
    written = {name: str(job.facts[name]) for name in WRITTEN if job.facts.get(name)}
    return {**dict(_find_prompts(job.params)), **written}


def _find_prompts(fields: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _find_prompts(cast("Mapping[str, Any]", value), f"{place}{name}.")
        elif isinstance(value, str) and value and (name.endswith("prompt") or name == "topic"):
            yield f"{place}{name}", value
