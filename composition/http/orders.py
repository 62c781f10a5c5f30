"""From the body of a request to a job: its model's request, complete and checked, and the media it needs."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, Field

from composition.configuration.registry import Registry
from composition.configuration.served import Assignment
from composition.graphs.request import GraphRequest
from composition.graphs.rolling_edit import GRAPH as ROLLING_EDIT
from composition.graphs.rolling_edit.request import Branch
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

BRANCH = "branch_from"
"""The field that names an older job to go on from. A model that has it keeps its frames."""
STYLE = "style_frame"
"""The field that is the older job's first frame where a branch does not begin with a frame of its own."""


class _Branching(BaseModel):
    """What must be read before the other fields."""

    branch_from: Annotated[Branch, BeforeValidator(from_json)]
    ttlg: Annotated[dict[str, Any], BeforeValidator(from_json)] = Field(default_factory=dict[str, Any])


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
        if fields.get(BRANCH) is not None and BRANCH in request_type.model_fields:
            fields, inherited = await self._branched(request_type, fields, set(media), owner)
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
        mentioned = {place: await self._mentioned(place, value, owner) for place, value in asked.mentions.items()}
        params = asked.model_dump(mode="json") | {name: file.id for name, file in files.items()}
        keys = {name: file.key for name, file in (files | mentioned).items()}
        main = None if asked.main == VIDEO else asked.main
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
        own = assignment.request.spelled_out(given)
        fields = assignment.complete_fields(own)
        seconds = fields.pop("seconds", None)
        if seconds is not None and "num_frames" not in _names(own):
            wanted = _read_seconds(seconds)
            fields = assignment.request.lasting(wanted, fields, await self._served.find_rate(assignment))
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

    async def _branched(
        self, request_type: type[GraphRequest], fields: dict[str, Any], given: set[str], owner: str
    ) -> tuple[dict[str, Any], dict[str, File | Still]]:
        """Return the fields with those of the older job behind them, and the media that come from it.

        The first frame is the older job's frame; edges that are not given go on where that frame stands.
        """
        read_first = {name: fields[name] for name in _Branching.model_fields if fields.get(name) is not None}
        branching = parsed(_Branching, read_first, {})
        branch = branching.branch_from
        old = await asyncio.to_thread(self._older, branch.video, owner)
        still = await asyncio.to_thread(self._store.find_still, old.id, branch.frame)
        if still is None:
            last = await asyncio.to_thread(self._store.find_still, old.id, -1)
            there = f"it has 0 to {last.index}" if last else "it has none yet"
            raise InvalidParameter(f"{BRANCH}.frame: {old.id} has no frame {branch.frame}; {there}", param=BRANCH)
        inherited: dict[str, File | Still] = {}
        behind = {name: value for name, value in old.params.items() if name not in {*request_type.MEDIA, BRANCH}}
        pictures = {request_type.REFERENCE, STYLE}
        if given - pictures:  # edges of its own
            behind |= {"edge_start": 0, "max_frames": None}
        else:
            behind["edge_start"] = int(old.params["edge_start"]) + branch.frame
            behind |= {} if "max_frames" in fields else _left(old, branch.frame)
            for name in old.media.keys() - pictures:
                inherited[name] = await asyncio.to_thread(self._still_there, old, name, owner)
        if not given & pictures:
            inherited |= await self._style(old, branch.frame, owner)
        if request_type.REFERENCE not in given:
            inherited[request_type.REFERENCE] = still
        guidance = {"ttlg": {**behind["ttlg"], **branching.ttlg}}
        return {**behind, **fields, **guidance}, inherited

    async def _style(self, old: Job, frame: int, owner: str) -> Mapping[str, File | Still]:
        """Whose style the older job held, where that is not the very frame to begin with."""
        if STYLE in old.media:
            return {STYLE: await asyncio.to_thread(self._still_there, old, STYLE, owner)}
        first = await asyncio.to_thread(self._store.find_still, old.id, 0)
        return {STYLE: first} if first is not None and frame > 0 else {}

    async def _kept(self, still: Still, owner: str) -> File:
        """Keep a frame of an older job as a file, which stays when that job is deleted."""
        data = b"".join(await asyncio.to_thread(list, self._artifacts.read(still.key)))
        return await self._uploads.keep(data, owner, BRANCH)

    def _older(self, video: str, owner: str) -> Job:
        try:
            old = self._store.get_job(video, owner)
        except NotFound as error:
            raise NotFound(f"{BRANCH}.video: {error.message}", param=BRANCH) from error
        if old.model != ROLLING_EDIT.name:
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


def _left(old: Job, frame: int) -> dict[str, int]:
    """How many frames the older job would still have made, that frame counted."""
    most = old.params.get("max_frames")
    return {} if most is None else {"max_frames": max(1, int(most) - frame)}
