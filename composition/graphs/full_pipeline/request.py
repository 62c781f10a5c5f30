"""What the full pipeline is asked for."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field

from composition.graphs.fields import told_rate
from composition.graphs.picture import Shooting, switched
from composition.graphs.request import GraphRequest
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
"""Field → the role whose model it needs."""

SHARES = {"face": 0.02, "paint": 0.3, "restyle": 0.13, "animate": 0.35, "decode": 0.05, "upscale": 0.2}


class FullPipelineRequest(GraphRequest, Shooting):
    """Paint a picture of a prompt, make it move, and enlarge the video. With `animate: false` it is a picture.

    Results: `image`, `video`, `hd`, each there as soon as it exists, and `painted`, the picture before it is restyled.
    """

    MEDIA = {"face": "image"}  # noqa: RUF012
    OTHERS = (HD,)
    KEEPS_FRAMES = True
    SEGMENTS = (2, 8)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What the picture shows."""

    @property
    def main(self) -> str:
        if self.animate is None:
            return IMAGE
        return VIDEO if self.upscale is None else HD

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        if params.get("animate") is None:
            return set()
        return {VIDEO} if params.get("upscale") is None else {VIDEO, HD}

    @property
    def shares(self) -> Mapping[str, float]:
        """Of the stages that are on. Decoding is a part of enlarging, where that goes on beside it."""
        on = {
            "face": self.face is not None,
            "paint": True,
            "restyle": self.restyle is not None,
            "animate": self.animate is not None,
            "decode": self.animate is not None and self.upscale is None,
            "upscale": self.upscale is not None,
        }
        whole = sum(SHARES[stage] for stage, there in on.items() if there)
        return {stage: SHARES[stage] / whole for stage, there in on.items() if there}

    @property
    def wants(self) -> Mapping[str, Role]:
        return {field: role for field, role in ROLES.items() if getattr(self, field) is not None}

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        del rate
        given = fields.get("animate", {})
        if not isinstance(given, Mapping):
            return dict(fields)
        animate = cast("Mapping[str, Any]", given)
        return {**fields, "animate": {**animate, "num_frames": max(2, round(seconds * told_rate(animate, SvdRequest)))}}

    @classmethod
    def turns_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
        """As for all graphs; a picture alone is enlarged only where that is asked for."""
        alone = stage == "upscale" and stage not in fields and not super().turns_on("animate", fields)
        return not alone and super().turns_on(stage, fields)

    @classmethod
    def spelled_out(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        return switched(fields)
