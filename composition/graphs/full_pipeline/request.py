"""The request of the full pipeline."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, cast

from pydantic import Field

from composition.graphs.face_pose import POSE, WORDS
from composition.graphs.fields import read_fps
from composition.graphs.picture import PictureStages, expand_stages
from composition.graphs.request import MediaRequest
from composition.variants import IMAGE, VIDEO
from services.limits import MAX_TEXT
from services.model import Role
from services.svd.request import SvdRequest

PAINTED, HD = "painted", "hd"

ROLES: Mapping[str, Role] = {
    "face": "face",
    "restyle": "restyle",
    "animate": "image-to-video",
    "upscale": "upscale",
}
"""Optional field → the role whose model it needs."""


class FullPipelineRequest(MediaRequest, PictureStages):
    """Generate an image from a prompt, animate it and upscale the video. Every stage but the first is optional.

    Results: `image`, `video` and `hd`, each available as soon as it is complete, and `painted`, the picture before
    restyling. With `animate: false` the main result is a picture.
    """

    MEDIA = {"face": "image", POSE: "image"}  # noqa: RUF012
    WORDS = WORDS

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What the picture shows."""

    @property
    def main_variant(self) -> str:
        if self.animate is None:
            return IMAGE
        return VIDEO if self.upscale is None else HD

    @classmethod
    def list_videos(cls, params: Mapping[str, Any], outputs: Collection[str]) -> set[str]:
        del outputs
        if params.get("animate") is None:
            return set()
        return {VIDEO} if params.get("upscale") is None else {VIDEO, HD}

    @property
    def active_stages(self) -> set[str]:
        """The stages that run. Decoding is counted as part of upscaling when both run at the same time."""
        active = {
            "face": self.face is not None or self.pose_picture is not None,
            "paint": True,
            "restyle": self.restyle is not None,
            "animate": self.animate is not None,
            "decode": self.animate is not None and self.upscale is None,
            "upscale": self.upscale is not None,
        }
        return {stage for stage, is_active in active.items() if is_active}

    def stage_shares(self, stages: Mapping[str, float]) -> Mapping[str, float]:
        active = {stage: share for stage, share in stages.items() if stage in self.active_stages}
        total = sum(active.values())
        return {stage: share / total for stage, share in active.items()}

    @property
    def wants(self) -> Mapping[str, Role]:
        wanted: dict[str, Role] = {field: role for field, role in ROLES.items() if getattr(self, field) is not None}
        return wanted if self.pose_picture is None else {**wanted, POSE: ROLES["face"]}

    @classmethod
    def set_duration(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        del rate
        value = fields.get("animate", {})
        if not isinstance(value, Mapping):
            return dict(fields)
        animate = cast("Mapping[str, Any]", value)
        return {**fields, "animate": {**animate, "num_frames": max(2, round(seconds * read_fps(animate, SvdRequest)))}}

    @classmethod
    def is_stage_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
        """Return whether an optional stage runs. Without animation, `upscale` must be set explicitly."""
        is_picture = stage == "upscale" and stage not in fields and not super().is_stage_on("animate", fields)
        return not is_picture and super().is_stage_on(stage, fields)

    @classmethod
    def expand_shorthands(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return expand_stages(fields)
