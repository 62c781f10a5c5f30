"""Whose face it is, as numbers: `POST /v1/faces` finds them, and they can be given in place of a picture."""

import base64
import math
from typing import Annotated, Literal, cast

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from composition.calls import Handle, Transport, opened, stream
from composition.encode import png
from composition.schemas import StageObject
from services.errors import InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Face, Fact, Frames, Item, StageDone
from services.limits import from_json

LOOKED_AT = "face"
"""The field that the service's errors name."""
LENGTH_OFF = 0.01
"""How far an embedding's length may be from 1: as much as rounding to three digits leaves."""
LENGTH_KEPT = 1e-5
"""An embedding that is as near to length 1 as its numbers can be stays as it is, to the last bit."""

Place = Annotated[float, Field(ge=-1, le=2)]
"""A fraction of a picture's width or height. A face may reach beyond the picture."""
Point = tuple[Place, Place]


class Identity(BaseModel):
    """Whose face it is and where it was, as `POST /v1/faces` says it: what a picture is painted with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    embedding: Annotated[tuple[float, ...], Field(min_length=512, max_length=512, fail_fast=True)]
    """Of length 1."""
    keypoints: Annotated[tuple[Point, ...], Field(min_length=5, max_length=5, fail_fast=True)]
    """x and y of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen."""
    box: tuple[Place, Place, Place, Place]
    """Left, top, right, bottom."""

    @field_validator("embedding")
    @classmethod
    def _of_length_1(cls, embedding: tuple[float, ...]) -> tuple[float, ...]:
        length = math.hypot(*embedding)
        if not abs(length - 1) <= LENGTH_OFF:
            raise ValueError(f"must be of length 1 ± {LENGTH_OFF}, and is of length {length:.4g}")
        return embedding

    @classmethod
    def of(cls, face: Face) -> "Identity":
        """Say a face in numbers that JSON holds exactly."""
        return cls(
            embedding=tuple(face.embedding.tolist()),
            keypoints=tuple((float(x), float(y)) for x, y in face.keypoints),
            box=cast("tuple[float, float, float, float]", tuple(face.box.tolist())),
        )

    def face(self) -> Face:
        """Return the face, without its crop: the very same numbers where they came from `of`."""
        embedding = np.array(self.embedding)
        length = math.hypot(*self.embedding)
        if abs(length - 1) > LENGTH_KEPT:
            embedding /= length
        return Face(embedding.astype(np.float32), np.array(self.keypoints, np.float32), np.array(self.box, np.float32))


IdentityField = Annotated[Identity, BeforeValidator(from_json)]
"""In a form it is JSON."""


class FaceRequest(BaseModel):
    """What may be asked beside the picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    """The id of the model; by default the first that is served."""


class Crop(BaseModel):
    """The face alone, upright."""

    b64_json: str
    """PNG, 112 x 112 pixels."""


class FaceObject(BaseModel):
    """The largest face of a picture."""

    object: Literal["face"] = "face"
    identity: Identity
    """Places are fractions of the picture's width and height."""
    crop: Crop
    faces: int
    """How many were found."""
    notice: str | None
    """What whoever sent the picture should know, e.g. that the face is small."""
    stages: list[StageObject]


class FaceFinder:
    """Asks InstantID for the faces of single pictures.

    Args:
        instantid: the deployment's handle.
        transport: the exceptions of the call.
    """

    def __init__(self, instantid: Handle, transport: Transport) -> None:
        self._instantid = instantid
        self._transport = transport

    async def find(self, image: Frames, key: str = "") -> FaceObject:
        """Find the largest face. Being cancelled stops the work.

        Raises:
            InvalidParameter: there is no face in `image`, or it is too small or turned too far.
            LimitExceeded: the picture is too large.
            ModelFailed, ServiceLost, ServiceBusy.
        """
        try:
            face, items = await face_of(self._instantid, image, self._transport, key)
        except InvalidParameter as error:
            if error.param != LOOKED_AT:
                raise
            # Not type(error): through Ray it comes as a class of Ray's making.
            kind = LimitExceeded if isinstance(error, LimitExceeded) else InvalidParameter
            raise kind(f"image{error.message.removeprefix(LOOKED_AT)}", param="image") from error
        facts = {item.name: item.value for item in items if isinstance(item, Fact)}
        faces, notice = facts.get("faces"), facts.get("notice")
        if face.crop is None or not isinstance(faces, int):
            raise ModelFailed("the model did not say how many faces there are, or gave no crop")
        return FaceObject(
            identity=Identity.of(face),
            crop=Crop(b64_json=base64.b64encode(png(face.crop.pixels[0])).decode()),
            faces=faces,
            notice=None if notice is None else str(notice),
            stages=[stage_object(item) for item in items if isinstance(item, StageDone)],
        )


async def face_of(instantid: Handle, image: Frames, transport: Transport, key: str = "") -> tuple[Face, list[Item]]:
    """Return the largest face in a picture, and what was said beside it: facts, and StageDone.

    Args:
        instantid: the deployment's handle.
        image: one frame.
        transport: the exceptions of the call.
        key: names the job.

    Raises:
        InvalidParameter, LimitExceeded: with the param `face`, when the picture does not do.
        ModelFailed, ServiceLost, ServiceBusy.
    """
    face: Face | None = None
    beside: list[Item] = []
    async with opened(stream(instantid, "find_face", image, key), transport) as items:
        async for item in items:
            if isinstance(item, Face):
                face = item
            else:
                beside.append(item)
    if face is None:
        raise ModelFailed("the model found no face and did not say so")
    return face, beside


def stage_object(done: StageDone) -> StageObject:
    told = {name: getattr(done, name) for name in ("model", "source", "revision", "replica", "seconds")}
    return StageObject(name=done.stage, **told)
