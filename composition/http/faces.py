"""Whose face it is, as numbers: `POST /v1/faces` finds them, and they can be given in place of a picture."""

import base64
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from composition.graphs.calls import Handle, Transport
from composition.graphs.faces import LOOKED_AT, find_face, write_identity
from composition.graphs.identity import Identity
from composition.http.schemas import StageObject, stage_object
from composition.media.encode import encode_png
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Fact, Frames, StageDone
from services.roles import FaceDetection


class FaceRequest(BaseModel):
    """Find the largest face in a picture."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"image": "image"}

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    """The picture."""
    model: str | None = None
    """The id of a served model that finds faces; by default the first."""


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
    """The face alone."""
    faces: int
    """How many were found."""
    notice: str | None
    """What whoever sent the picture should know, e.g. that the face is small."""
    stages: list[StageObject] = []
    """Which services did the work."""


class FaceFinder:
    """Asks InstantID for the faces of single pictures.

    Args:
        finder: the handle of the model.
        transport: the exceptions of the call.
    """

    def __init__(self, finder: Handle[FaceDetection], transport: Transport) -> None:
        self._finder = finder
        self._transport = transport

    async def find(self, image: Frames, key: str = "") -> FaceObject:
        """Find the largest face. Being cancelled stops the work.

        Raises:
            InvalidParameter: there is no face in `image`, or it is too small or turned too far.
            LimitExceeded: the picture is too large.
            ModelFailed, ServiceLost, ServiceBusy.
        """
        try:
            face, items = await find_face(self._finder, image, self._transport, key)
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
            identity=write_identity(face),
            crop=Crop(b64_json=base64.b64encode(encode_png(face.crop.pixels[0])).decode()),
            faces=faces,
            notice=None if notice is None else str(notice),
            stages=[stage_object(item) for item in items if isinstance(item, StageDone)],
        )
