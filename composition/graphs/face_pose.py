"""The field that sets the pose of a person's face in a generated picture."""

from collections.abc import Collection, Mapping

from pydantic import BaseModel

from composition.graphs.identity import Identity
from services.errors import InvalidParameter

POSE = "face_pose"
"""Name of the field."""
NO_POSE, PHOTO = "none", "photo"
WORDS: Mapping[str, Collection[str]] = {POSE: (NO_POSE, PHOTO)}
"""The values of the field that are not a picture."""


class PosedFace(BaseModel):
    """The pose of a person's face."""

    face_pose: str = NO_POSE
    """Pose and place of the face: `none` (chosen by the model), `photo` (as there), or another picture."""

    @property
    def pose_picture(self) -> str | None:
        """The picture that sets the pose, if one does."""
        return None if self.face_pose in WORDS[POSE] else self.face_pose


def check_pose(request: PosedFace, identity: Identity | None, *, has_face: bool) -> None:
    """Check the pose of a request.

    Args:
        request: the request.
        identity: the person of the request, if given in this form.
        has_face: whether the request shows a person, in any form.

    Raises:
        InvalidParameter: the pose is a picture although no face is shown, or the size of the photo is unknown.
    """
    if request.pose_picture is not None and not has_face:
        raise InvalidParameter(f"{POSE}: must be none or photo without a face or an identity", param=POSE)
    if request.face_pose == PHOTO and identity is not None and identity.size is None:
        raise InvalidParameter(
            f"{POSE}: photo needs the size of the photo, which this identity lacks; find the face again", param=POSE
        )
