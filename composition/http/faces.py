"""`POST /v1/faces`: finds a face and returns its identity, which requests accept in place of a picture."""

import base64
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from composition.graphs.calls import Handle, Transport
from composition.graphs.faces import FACE_PARAM, find_face, rename_param, write_identity
from composition.graphs.identity import Identity
from composition.http.schemas import StageObject
from composition.media.encode import encode_png
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, ModelFailed
from services.frames import Fact, Frames, StageDone
from services.roles import FaceDetection


class FaceRequest(BaseModel):
    """Find the largest face in a picture."""

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {"image": "image"}

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str
    """The picture."""
    model: str | None = None
    """Id of a served model that finds faces; by default the first."""


class Crop(BaseModel):
    """The face, cut out of the picture and rotated upright."""

    b64_json: str
    """PNG file in base64, 112 x 112 pixels."""


class FaceObject(BaseModel):
    """The largest face of a picture."""

    object: Literal["face"] = "face"
    identity: Identity
    """Identity of the person; coordinates are fractions of the picture's width and height."""
    crop: Crop
    """The face, cut out of the picture."""
    faces: int
    """Number of faces found."""
    notice: str | None
    """A warning for the user, e.g. that the face is small; null if there is none."""
    stages: list[StageObject] = []
    """Completed stages, with the service that ran each."""


class FaceFinder:
    """Finds faces in single pictures.

    Args:
        finder: handle of the model that finds faces.
        transport: the exceptions of calls to the model.
    """

    def __init__(self, finder: Handle[FaceDetection], transport: Transport) -> None:
        self._finder = finder
        self._transport = transport

    async def find(self, image: Frames, key: str = "") -> FaceObject:
        """Find the largest face in a picture. Cancelling stops the model.

        Args:
            image: one frame.
            key: key of the call, for cancelling it; empty if there is none.

        Raises:
            InvalidParameter: `image` has no face, or the face is too small or turned too far.
            LimitExceeded: the picture is too large.
            ModelFailed, ServiceLost, ServiceBusy: the call to the model failed.
        """
        try:
            face, items = await find_face(self._finder, image, self._transport, key)
        except InvalidParameter as error:
            raise rename_param(error, FACE_PARAM, "image") from error
        facts = {item.name: item.value for item in items if isinstance(item, Fact)}
        faces, notice = facts.get("faces"), facts.get("notice")
        if face.crop is None or not isinstance(faces, int):
            raise ModelFailed("the model did not report the number of faces, or returned no crop")
        return FaceObject(
            identity=write_identity(face),
            crop=Crop(b64_json=base64.b64encode(encode_png(face.crop.pixels[0])).decode()),
            faces=faces,
            notice=None if notice is None else str(notice),
            stages=[StageObject.from_stage(item) for item in items if isinstance(item, StageDone)],
        )
