"""Finds the face in a picture, and converts faces to and from JSON."""

import math
from typing import cast

import numpy as np

from composition.graphs.calls import Handle, Transport, open_stream, stream
from composition.graphs.face_pose import POSE
from composition.graphs.identity import Identity
from services.errors import InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Face, Fact, Frames, Item
from services.roles import FaceDetection

FACE_PARAM = "face"
"""The field that errors of the face model name."""

LENGTH_TOLERANCE = 1e-5
"""An embedding whose length differs from 1 by less than this is not normalized, so that it stays bit-identical."""


async def find_face(
    finder: Handle[FaceDetection], image: Frames, transport: Transport, key: str = ""
) -> tuple[Face, list[Item]]:
    """Return the largest face in a picture, and the other items of the stream (facts and StageDone).

    Args:
        finder: handle of the face model.
        image: one frame.
        transport: the exceptions of the call.
        key: the job's id, under which the call can be stopped.

    Raises:
        InvalidParameter, LimitExceeded: the picture is not suitable; `param` is `face`.
        ModelFailed, ServiceLost, ServiceBusy.
    """
    face: Face | None = None
    other_items: list[Item] = []
    async with open_stream(stream(finder, FaceDetection.find_face, image, key), transport) as items:
        async for item in items:
            if isinstance(item, Face):
                face = item
            else:
                other_items.append(item)
    if face is None:
        raise ModelFailed("the face model returned neither a face nor an error")
    return face, other_items


async def find_pose(
    finder: Handle[FaceDetection], image: Frames, transport: Transport, key: str = ""
) -> tuple[Face, list[Item]]:
    """Return the largest face in the picture of a pose, and the other items of the stream.

    The notice is named `pose_notice`, and the number of faces left out: these facts are of the face itself.

    Args, Raises: as `find_face`, but `param` is `face_pose`.
    """
    try:
        pose, items = await find_face(finder, image, transport, key)
    except InvalidParameter as error:
        raise rename_param(error, FACE_PARAM, POSE) from error
    kept = [item for item in items if not (isinstance(item, Fact) and item.name == "faces")]
    return pose, [Fact("pose_notice", item.value) if isinstance(item, Fact) else item for item in kept]


def rename_param(error: InvalidParameter, name: str, other: str) -> InvalidParameter:
    """Return an error about the field `name` as one about the field `other`; any other error is not changed."""
    if error.param != name:
        return error
    # Not type(error): Ray raises an instance of a class that it derives from the original one.
    kind = LimitExceeded if isinstance(error, LimitExceeded) else InvalidParameter
    return kind(f"{other}{error.message.removeprefix(name)}", param=other)


def write_identity(face: Face) -> Identity:
    """Return a face in its JSON form, which keeps every number exact."""
    return Identity(
        embedding=tuple(face.embedding.tolist()),
        keypoints=tuple((float(x), float(y)) for x, y in face.keypoints),
        box=cast("tuple[float, float, float, float]", tuple(face.box.tolist())),
        size=face.size,
    )


def read_identity(identity: Identity) -> Face:
    """Return the face of an identity, without a crop. The inverse of `write_identity`, bit for bit."""
    embedding = np.array(identity.embedding)
    length = math.hypot(*identity.embedding)
    if abs(length - 1) > LENGTH_TOLERANCE:
        embedding /= length
    keypoints, box = np.array(identity.keypoints, np.float32), np.array(identity.box, np.float32)
    return Face(embedding.astype(np.float32), keypoints, box, size=identity.size)
