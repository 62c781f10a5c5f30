"""From the body of a request to a job: its model's request, complete and checked, and the media it needs."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, Field

from composition.configuration.registry import Registry
from composition.configuration.served import Assignment
from composition.graphs.branching import FIELD as BRANCH
from composition.graphs.branching import Branching, Origin
from composition.http.bodies import MAX_SECONDS, PENDING, Body, taken_media
from composition.http.uploads import Uploads
from composition.http.validation import parsed
from composition.records.artifacts import Artifacts
from composition.records.store import Store, make_id
from composition.records.tables import File, Job, Still
from composition.variants import VIDEO
from services.errors import InvalidParameter, NotFound
from services.limits import from_json
from services.model import Role


class _Choosing(BaseModel):
    """What says which models run a request."""

    models: Annotated[Mapping[Role, str], BeforeValidator(from_json)] = Field(default_factory=dict[Role, str])


class Orders:
    """Makes jobs of bodies.

    Args:
        served: what is served.
        uploads, kept: where media and older jobs are.
    """

    def __init__(self, served: Registry, uploads: Uploads, kept: tuple[Store, Artifacts]) -> None:
        self._served = served
        self._uploads = uploads
        self._store, self._artifacts = kept

    async def job(self, body: Body, owner: str) -> Job:
        """Return the job that a body asks for; it is not stored yet, its media are.

        Raises InvalidParameter, LimitExceeded, NotFound, UndecodableMedia, ServiceBusy.
        """
        assignment = await self._assign(body.fields)
        request_type = assignment.request
        media, fields = taken_media(request_type.MEDIA, request_type.REFERENCE, body)
        del fields["model"]
        inherited: dict[str, File | Still] = {}
        if assignment.graph.branching is not None and fields.get(BRANCH) is not None:
            fields, inherited = await self._branch(
                assignment.name, assignment.graph.branching, fields, set(media), owner
            )
            assignment = await self._assign({**fields, "model": assignment.name})
        fields = await self._complete(assignment, fields)
        pending = dict.fromkeys({*media, *inherited}, PENDING)
        # What can be said without looking at the media is said first.
        asked = parsed(request_type, {**fields, **pending}, assignment.limits).drop_unserved(assignment.models)
        files = {
            name: await self._uploads.media(value, request_type.MEDIA[name], owner, name)
            for name, value in media.items()
        }
        files |= {name: file for name, file in inherited.items() if isinstance(file, File)}
        asked.check_media({name: int(file.facts["frames"]) for name, file in files.items()})
        files |= {name: await self._kept(still, owner) for name, still in inherited.items() if isinstance(still, Still)}
        mentioned = {
            place: await self._mentioned(place, value, owner) for place, value in asked.mentioned_files.items()
        }
        params = asked.model_dump(mode="json") | {name: file.id for name, file in files.items()}
        keys = {name: file.key for name, file in (files | mentioned).items()}
        main = None if asked.main_variant == VIDEO else asked.main_variant
        said: dict[str, Any] = {"model": assignment.name, "params": params, "media": keys, "main": main}
        return Job(id=make_id("video"), owner=owner, created_at=time.time(), **said)

    async def _assign(self, fields: Mapping[str, Any]) -> Assignment:
        """Find what is asked for. Raises InvalidParameter."""
        if isinstance(fields.get("model"), list | dict):
            raise InvalidParameter("model: must be the name of a graph or a model", param="model")
        chosen = parsed(_Choosing, {"models": fields["models"]} if fields.get("models") is not None else {}, {})
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        return snapshot.assign_models(str(fields.get("model")), chosen.models)

    async def _complete(self, assignment: Assignment, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields with the defaults behind them, `seconds` read, and the models that are to run them."""
        own = assignment.request.expand_shorthands(given)
        fields = assignment.complete_fields(own)
        seconds = fields.pop("seconds", None)
        if seconds is not None and "num_frames" not in _names(own):
            wanted = _read_seconds(seconds)
            fields = assignment.request.set_duration(wanted, fields, await self._served.find_rate(assignment))
        return {**fields, "models": assignment.ids}

    async def _mentioned(self, place: str, file_id: str, owner: str) -> File:
        """The picture that is named inside of a field. Raises NotFound, InvalidParameter."""
        try:
            file = await asyncio.to_thread(self._store.get_file, file_id, owner)
        except NotFound as error:
            raise NotFound(f"{place}: {error.message}", param=place) from error
        if file.facts["kind"] != "image":
            raise InvalidParameter(f"{place}: must be a picture, and is of kind {file.facts['kind']}", param=place)
        return file

    async def _branch(
        self, name: str, branching: Branching, fields: dict[str, Any], given: set[str], owner: str
    ) -> tuple[dict[str, Any], dict[str, File | Still]]:
        """Return the fields with those of the older job merged in, and the media that come from that job.

        Raises InvalidParameter, NotFound.
        """
        early = {field: fields[field] for field in branching.fields.model_fields if fields.get(field) is not None}
        request = parsed(branching.fields, early, {})
        frame = request.branch_from.frame
        old = await asyncio.to_thread(self._older, name, request.branch_from.video, owner)
        await asyncio.to_thread(self._frame, old, frame)
        fields = {**fields, **request.model_dump(exclude_unset=True)}
        inherited = branching.inherit(Origin(frame, old.params, old.media.keys()), fields, given)
        media: dict[str, File | Still] = {
            field: await asyncio.to_thread(self._still_there, old, field, owner) for field in inherited.files
        }
        for field, index in inherited.frames.items():
            media[field] = await asyncio.to_thread(self._frame, old, index)
        return dict(inherited.fields), media

    def _frame(self, old: Job, index: int) -> Still:
        still = self._store.find_still(old.id, index)
        if still is None:
            last = self._store.find_still(old.id, -1)
            there = f"it has 0 to {last.index}" if last else "it has none yet"
            raise InvalidParameter(f"{BRANCH}.frame: {old.id} has no frame {index}; {there}", param=BRANCH)
        return still

    async def _kept(self, still: Still, owner: str) -> File:
        """Keep a frame of an older job as a file, which stays when that job is deleted."""
        data = b"".join(await asyncio.to_thread(list, self._artifacts.read(still.key)))
        return await self._uploads.keep(data, owner, BRANCH)

    def _older(self, name: str, video: str, owner: str) -> Job:
        try:
            old = self._store.get_job(video, owner)
        except NotFound as error:
            raise NotFound(f"{BRANCH}.video: {error.message}", param=BRANCH) from error
        if old.model != name:
            raise InvalidParameter(f"{BRANCH}.video: {old.id} is a {old.model}, which cannot be branched", param=BRANCH)
        return old

    def _still_there(self, old: Job, name: str, owner: str) -> File:
        try:
            return self._store.get_file(str(old.params[name]), owner)
        except NotFound as error:
            raise NotFound(
                f"{BRANCH}.video: the {name} of {old.id} was deleted; give {name} again", param=BRANCH
            ) from error


def _read_seconds(seconds: object) -> float:
    """Read OpenAI's `seconds`. Raises InvalidParameter."""
    try:
        wanted = float(str(seconds))
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < MAX_SECONDS:
        raise InvalidParameter(f"seconds: must be a number above 0, got {str(seconds)[:60]!r}", param="seconds")
    return wanted


def _names(fields: Mapping[str, Any]) -> set[str]:
    """The fields that are given, those inside of objects among them."""
    objects = [cast("Mapping[str, Any]", value) for value in fields.values() if isinstance(value, Mapping)]
    return {*fields, *(name for each in objects for name in each)}
