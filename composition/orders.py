"""From the body of a request to a job: its model's request, complete and checked, and the media it needs."""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, Field

from composition.artifacts import Artifacts
from composition.bodies import Body, taken_media
from composition.graph import GraphRequest, merged_fields
from composition.rolling_edit import Branch
from composition.schemas import parsed
from composition.store import VIDEO, Store, new_id
from composition.tables import File, Job, Still
from composition.uploads import Uploads
from services.errors import InvalidParameter, NotFound
from services.limits import from_json

BRANCH = "branch_from"
"""The field that names an older job to go on from. A model that has it keeps its frames."""
STYLE = "style_frame"
"""The field that is the older job's first frame where a branch does not begin with a frame of its own."""


class _Branching(BaseModel):
    """What must be read before the other fields."""

    branch_from: Annotated[Branch, BeforeValidator(from_json)]
    ttlg: Annotated[dict[str, Any], BeforeValidator(from_json)] = Field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Rules:
    """What the operator says about requests."""

    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Model → values for the fields that a request leaves out."""
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """Model → field, or `field.field` → the most that may be asked."""
    served: Collection[str] = ()
    """The models that are there."""
    rate: float = 16.0
    """Frames per second that OpenAI's `seconds` is reckoned with."""


class Orders:
    """Makes jobs of bodies.

    Args:
        requests: model → the class of its requests.
        rules: see Rules.
        uploads, kept: where media and older jobs are.
    """

    def __init__(
        self,
        requests: Mapping[str, type[GraphRequest]],
        rules: Rules,
        uploads: Uploads,
        kept: tuple[Store, Artifacts],
    ) -> None:
        self._requests = requests
        self._rules = rules
        self._uploads = uploads
        self._store, self._artifacts = kept

    async def job(self, body: Body, owner: str) -> Job:
        """Return the job that a body asks for; it is not stored yet, its media are.

        Raises InvalidParameter, LimitExceeded, NotFound, UndecodableMedia.
        """
        given = body.fields.get("model")
        if isinstance(given, list | dict):
            raise InvalidParameter("model: must be the name of a model", param="model")
        model = str(given)
        request_type = self._requests.get(model)
        if request_type is None:
            known = ", ".join(self._requests)
            raise InvalidParameter(f"model: there is no {model[:60]!r}; there are {known}", param="model")
        media, fields = taken_media(request_type.MEDIA, request_type.REFERENCE, body)
        del fields["model"]
        inherited: dict[str, File | Still] = {}
        if fields.get(BRANCH) is not None and BRANCH in request_type.model_fields:
            fields, inherited = await self._branched(request_type, fields, set(media), owner)
        behind, limits = (rules.get(model, {}) for rules in (self._rules.defaults, self._rules.limits))
        own = request_type.spelled_out(fields)
        fields = merged_fields(request_type.spelled_out(behind), own)
        fields = self._openai_fields(request_type, fields, _names(own))
        pending = dict.fromkeys({*media, *inherited}, "pending")
        # What can be said without looking at the media is said first.
        asked = parsed(request_type, {**fields, **pending}, limits).served_by(self._rules.served)
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
        said: dict[str, Any] = {"model": model, "params": params, "media": keys, "main": main}
        return Job(id=new_id("video"), owner=owner, created_at=time.time(), **said)

    async def _mentioned(self, place: str, file_id: str, owner: str) -> File:
        """The picture that is named inside of a field. Raises NotFound, InvalidParameter."""
        try:
            file = await asyncio.to_thread(self._store.file, file_id, owner)
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
        old = await asyncio.to_thread(self._older, branch.video, request_type, owner)
        still = await asyncio.to_thread(self._store.still, old.id, branch.frame)
        if still is None:
            last = await asyncio.to_thread(self._store.still, old.id, -1)
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
        first = await asyncio.to_thread(self._store.still, old.id, 0)
        return {STYLE: first} if first is not None and frame > 0 else {}

    async def _kept(self, still: Still, owner: str) -> File:
        """Keep a frame of an older job as a file, which stays when that job is deleted."""
        data = b"".join(await asyncio.to_thread(list, self._artifacts.read(still.key)))
        return await self._uploads.keep(data, owner, BRANCH)

    def _older(self, video: str, request_type: type[GraphRequest], owner: str) -> Job:
        try:
            old = self._store.job(video, owner)
        except NotFound as error:
            raise NotFound(f"{BRANCH}.video: {error.message}", param=BRANCH) from error
        if self._requests.get(old.model) is not request_type:
            raise InvalidParameter(f"{BRANCH}.video: {old.id} is a {old.model}, which cannot be branched", param=BRANCH)
        return old

    def _still_there(self, old: Job, name: str, owner: str) -> File:
        try:
            return self._store.file(str(old.params[name]), owner)
        except NotFound as error:
            raise NotFound(
                f"{BRANCH}.video: the {name} of {old.id} was deleted; give {name} again", param=BRANCH
            ) from error

    def _openai_fields(
        self, request_type: type[GraphRequest], fields: dict[str, Any], given: set[str]
    ) -> dict[str, Any]:
        """Read OpenAI's `seconds`, where a number of frames is not given. Raises InvalidParameter."""
        seconds = fields.pop("seconds", None)
        if seconds is None or "num_frames" in given:
            return fields
        try:
            wanted = float(seconds)
        except (TypeError, ValueError):
            wanted = 0.0
        if not 0 < wanted < 3600:
            raise InvalidParameter(f"seconds: must be a number above 0, got {str(seconds)[:60]!r}", param="seconds")
        return request_type.lasting(wanted, fields, self._rules.rate)


def _names(fields: Mapping[str, Any]) -> set[str]:
    """The fields that are given, those inside of objects among them."""
    objects = [cast("Mapping[str, Any]", value) for value in fields.values() if isinstance(value, Mapping)]
    return {*fields, *(name for each in objects for name in each)}


def _left(old: Job, frame: int) -> dict[str, int]:
    """How many frames the older job would still have made, that frame counted."""
    most = old.params.get("max_frames")
    return {} if most is None else {"max_frames": max(1, int(most) - frame)}
