"""Finding a face in a picture, and a face as numbers that JSON can carry."""

import math
from typing import cast

import numpy as np

from composition.graphs.calls import Handle, Transport, opened, stream
from composition.graphs.identity import Identity
from services.errors import ModelFailed
from services.frames import Face, Frames, Item
from services.roles import FaceDetection

LOOKED_AT = "face"
"""The field that the service's errors name."""

LENGTH_KEPT = 1e-5
"""An embedding that is as near to length 1 as its numbers can be stays as it is, to the last bit."""


async def find_face(
    finder: Handle[FaceDetection], image: Frames, transport: Transport, key: str = ""
) -> tuple[Face, list[Item]]:
    """Return the largest face in a picture, and what was said beside it: facts, and StageDone.

    Args:
        finder: the handle of the model.
        image: one frame.
        transport: the exceptions of the call.
        key: names the job.

    Raises:
        InvalidParameter, LimitExceeded: with the param `face`, when the picture does not do.
        ModelFailed, ServiceLost, ServiceBusy.
    """
    face: Face | None = None
    beside: list[Item] = []
    async with opened(stream(finder, FaceDetection.find_face, image, key), transport) as items:
        async for item in items:
            if isinstance(item, Face):
                face = item
            else:
                beside.append(item)
    if face is None:
        raise ModelFailed("the model found no face and did not say so")
    return face, beside


def write_identity(face: Face) -> Identity:
    """Return a face as numbers that JSON holds exactly."""
    return Identity(
        embedding=tuple(face.embedding.tolist()),
        keypoints=tuple((float(x), float(y)) for x, y in face.keypoints),
        box=cast("tuple[float, float, float, float]", tuple(face.box.tolist())),
    )


def read_identity(identity: Identity) -> Face:
    """Return the face, without its crop: the very same numbers where they came from `write_identity`."""
    embedding = np.array(identity.embedding)
    length = math.hypot(*identity.embedding)
    if abs(length - 1) > LENGTH_KEPT:
        embedding /= length
    keypoints, box = np.array(identity.keypoints, np.float32), np.array(identity.box, np.float32)
    return Face(embedding.astype(np.float32), keypoints, box)
