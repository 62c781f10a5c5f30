"""Turns the body of a request into a job: complete, validated, and with its media stored."""

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, Field

from composition.configuration.registry import Registry
from composition.configuration.served import Assignment
from composition.graphs.branching import FIELD as BRANCH
from composition.graphs.branching import Branching, Origin
from composition.graphs.request import GraphRequest, MediaRequest
from composition.http.bodies import MAX_SECONDS, PENDING, Body, take_media
from composition.http.changes import merge_changes, set_background
from composition.http.listing import NO_DEFAULTS
from composition.http.uploads import Uploads, check_kind
from composition.http.validation import parse_fields
from composition.media.limits import MediaKind
from composition.records.artifacts import Artifacts
from composition.records.store import Store, make_id
from composition.records.tables import File, Job, Still
from composition.variants import VIDEO
from services.errors import InvalidParameter, NotFound
from services.frames import JsonValue
from services.limits import parse_json_object
from services.model import Role


class _ModelChoice(BaseModel):
    """The field that selects the models of a request; it is parsed before the other fields."""

    models: Annotated[Mapping[Role, str], BeforeValidator(parse_json_object)] = Field(default_factory=dict[Role, str])


class JobBuilder:
    """Builds jobs from request bodies.

    Args:
        served: the served graphs and models.
        uploads: stores the media.
        store: the database, with files and older jobs.
        artifacts: the artifact store, with the frames of older jobs.
        defaults: default values of fields of all requests.
    """

    def __init__(
        self,
        served: Registry,
        uploads: Uploads,
        store: Store,
        artifacts: Artifacts,
        defaults: Mapping[str, Any] = NO_DEFAULTS,
    ) -> None:
        self._served = served
        self._uploads = uploads
        self._store = store
        self._artifacts = artifacts
        self._defaults = defaults

    async def build_job(self, body: Body, owner: str) -> Job:
        """Return the job for a request. The job is not stored yet; its media are.

        Raises InvalidParameter, LimitExceeded, NotFound, UndecodableMedia, ServiceBusy.
        """
        assignment = await self._assign_models(body.fields)
        request_type = assignment.request
        media, fields = take_media(request_type.MEDIA, request_type.REFERENCE, body, request_type.WORDS)
        del fields["model"]
        inherited: dict[str, File | Still] = {}
        branching = assignment.graph.branching
        if branching is not None and fields.get(BRANCH) is not None:
            fields, inherited = await self._inherit(assignment.name, branching, fields, set(media), owner)
            assignment = await self._assign_models({**fields, "model": assignment.name})
        fields = await self._complete_fields(assignment, fields)
        pending = dict.fromkeys({*media, *inherited}, PENDING)
        # The fields are validated before the media, which takes longer.
        request = parse_fields(request_type, {**fields, **pending}, assignment.limits).drop_unserved(assignment.models)
        request.check_scores(assignment.unmeasured)
        files = {
            name: await self._uploads.store_media(value, request_type.MEDIA[name], owner, name)
            for name, value in media.items()
        }
        files |= {name: file for name, file in inherited.items() if isinstance(file, File)}
        request.check_media({name: int(file.facts["frames"]) for name, file in files.items()})
        files |= {
            name: await self._store_frame(still, owner) for name, still in inherited.items() if isinstance(still, Still)
        }
        pictures = await self._find_mentioned(request.mentioned_files, "image", owner)
        sounds = await self._find_mentioned(request.mentioned_sounds, "sound", owner)
        return Job(
            id=make_id("video"),
            owner=owner,
            created_at=time.time(),
            model=assignment.name,
            params=request.model_dump(mode="json") | {name: file.id for name, file in files.items()},
            media={name: file.key for name, file in (files | pictures | sounds).items()},
            main=None if request.main_variant == VIDEO else request.main_variant,
            facts=_list_changes(request, files | pictures),
        )

    async def _assign_models(self, fields: Mapping[str, Any]) -> Assignment:
        """Return the graph and the models for a request. Raises InvalidParameter."""
        if isinstance(fields.get("model"), list | dict):
            raise InvalidParameter("model: must be the name of a graph or a model", param="model")
        given = {"models": fields["models"]} if fields.get("models") is not None else {}
        chosen = parse_fields(_ModelChoice, given, {})
        snapshot = await asyncio.to_thread(self._served.read_snapshot)
        return snapshot.assign_models(str(fields.get("model")), chosen.models)

    async def _complete_fields(self, assignment: Assignment, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields with defaults and the ids of the models, and with `seconds` converted to `num_frames`."""
        expanded = assignment.request.expand_shorthands(given)
        fields = assignment.add_defaults(self._defaults).complete_fields(expanded)
        seconds = fields.pop("seconds", None)
        if seconds is not None and "num_frames" not in _list_names(expanded):
            rate = await self._served.find_rate(assignment)
            fields = assignment.request.set_duration(_parse_seconds(seconds), fields, rate)
        return {**fields, "models": assignment.ids}

    async def _find_mentioned(self, ids: Mapping[str, str], kind: MediaKind, owner: str) -> dict[str, File]:
        """Return the files whose ids are given in nested fields, by these fields. Raises NotFound, InvalidParameter."""
        files: dict[str, File] = {}
        for place, file_id in ids.items():
            try:
                files[place] = await asyncio.to_thread(self._store.get_file, file_id, owner)
            except NotFound as error:
                raise NotFound(f"{place}: {error.message}", param=place) from error
            check_kind(files[place], kind, place, place)
        return files

    async def _inherit(
        self, name: str, branching: Branching, fields: dict[str, Any], given: set[str], owner: str
    ) -> tuple[dict[str, Any], dict[str, File | Still]]:
        """Return the fields merged with those of the older job, and the media inherited from it.

        Args:
            name: name of the graph; the older job must be of the same graph.
            branching: how the graph inherits.
            fields: the fields of the request, without media.
            given: names of the media fields of the request.
            owner: owner of both jobs.

        Raises InvalidParameter, NotFound.
        """
        early = {field: fields[field] for field in branching.fields.model_fields if fields.get(field) is not None}
        request = parse_fields(branching.fields, early, {})
        frame = request.branch_from.frame
        old = await asyncio.to_thread(self._find_older_job, name, request.branch_from.video, owner)
        await asyncio.to_thread(self._find_frame, old, frame)
        fields = {**fields, **request.model_dump(exclude_unset=True)}
        inherited = branching.inherit(Origin(frame, old.params, old.media.keys()), fields, given)
        media: dict[str, File | Still] = {
            field: await asyncio.to_thread(self._find_inherited_file, old, field, owner) for field in inherited.files
        }
        for field, index in inherited.frames.items():
            media[field] = await asyncio.to_thread(self._find_frame, old, index)
        return dict(inherited.fields), media

    def _find_frame(self, old: Job, index: int) -> Still:
        """Return a stored frame of an older job. Raises InvalidParameter."""
        still = self._store.find_still(old.id, index)
        if still is None:
            last = self._store.find_still(old.id, -1)
            available = f"0 to {last.index}" if last else "none yet"
            raise InvalidParameter(
                f"{BRANCH}.frame: {old.id} has no frame {index}; available: {available}", param=BRANCH
            )
        return still

    async def _store_frame(self, still: Still, owner: str) -> File:
        """Store a copy of a frame of an older job, which remains if that job is deleted."""
        data = b"".join(await asyncio.to_thread(list, self._artifacts.read(still.key)))
        return await self._uploads.store_bytes(data, owner, BRANCH)

    def _find_older_job(self, name: str, video: str, owner: str) -> Job:
        """Return the job to branch from. Raises NotFound, InvalidParameter."""
        try:
            old = self._store.get_job(video, owner)
        except NotFound as error:
            raise NotFound(f"{BRANCH}.video: {error.message}", param=BRANCH) from error
        if old.model != name:
            raise InvalidParameter(
                f"{BRANCH}.video: must be a job of {name}, got {old.id}, which is a job of {old.model}", param=BRANCH
            )
        return old

    def _find_inherited_file(self, old: Job, name: str, owner: str) -> File:
        """Return the file of a media field of an older job. Raises NotFound."""
        try:
            return self._store.get_file(str(old.params[name]), owner)
        except NotFound as error:
            raise NotFound(
                f"{BRANCH}.video: the {name} of {old.id} was deleted; give {name} again", param=BRANCH
            ) from error


def _list_changes(request: GraphRequest, files: Mapping[str, File]) -> dict[str, JsonValue]:
    """Return what the decoder changes in the files of a request, as facts."""
    background = request.background if isinstance(request, MediaRequest) else None
    kept = request.KEPT_ALPHA if isinstance(request, MediaRequest) and background is None else ()
    changes = {
        field: set_background(file.facts.get("changes", {}), background)
        for field, file in files.items()
        if request.MEDIA.get(field) != "sound"
    }
    return merge_changes(changes, kept)


def _parse_seconds(seconds: object) -> float:
    """Return the value of OpenAI's field `seconds`. Raises InvalidParameter."""
    try:
        duration_s = float(str(seconds))
    except ValueError:
        duration_s = 0.0
    if not 0 < duration_s < MAX_SECONDS:
        raise InvalidParameter(
            f"seconds: must be a number above 0 and below {MAX_SECONDS}, got {str(seconds)[:60]!r}", param="seconds"
        )
    return duration_s


def _list_names(fields: Mapping[str, Any]) -> set[str]:
    """Return the names of all fields, including those of nested objects."""
    objects = [cast("Mapping[str, Any]", value) for value in fields.values() if isinstance(value, Mapping)]
    return {*fields, *(name for each in objects for name in each)}
