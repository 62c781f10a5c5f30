"""What is asked of one model alone: what its role takes, and the fields of its kind."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from pydantic import model_validator

from composition.graphs.fields import told_rate
from composition.graphs.request import GraphRequest
from composition.variants import IMAGE, VIDEO
from services.errors import InvalidParameter
from services.limits import from_json
from services.model import Offer, Role


class SingleRequest(GraphRequest):
    """A job of a model alone."""

    OFFER: ClassVar[Offer]
    """What the model is asked for."""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        if "num_frames" not in cls.model_fields:
            return super().lasting(seconds, fields, rate)
        counted: Callable[[float, float], int] | None = getattr(cls, "count_frames", None)
        if counted is not None:
            return {**fields, "num_frames": counted(seconds, rate)}
        shown_at = told_rate(fields, cls) if "fps" in cls.model_fields else rate
        return {**fields, "num_frames": max(2, round(seconds * shown_at))}


class AnimationJob(SingleRequest):
    """Make a video that begins with a picture."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012

    image: str
    """The first frame."""


class FilmJob(SingleRequest):
    """Make a video of a prompt."""

    STAGES = {"denoise": 0.85, "decode": 0.15}  # noqa: RUF012


class PictureJob(SingleRequest):
    """Paint a picture of a prompt."""

    STAGES = {"paint": 1.0}  # noqa: RUF012

    @model_validator(mode="after")
    def _one_picture(self) -> "PictureJob":
        count = getattr(self, "n", 1)
        if count != 1:
            raise InvalidParameter(f"n: a job makes one picture, got {count}", param="n")
        return self

    @property
    def main(self) -> str:
        return IMAGE

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        del params
        return set()


class RepaintJob(PictureJob):
    """Paint a picture anew."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"
    STAGES = {"denoise": 1.0}  # noqa: RUF012

    image: str
    """What to paint anew."""


class EditJob(RepaintJob):
    """Edit a picture."""

    MEDIA = {"image": "image", "edges": "image"}  # noqa: RUF012

    edges: str | None = None
    """A picture of the edges to follow, white on black."""

    @model_validator(mode="before")
    @classmethod
    def _follow_edges_only_where_given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        if fields.get("edges") is not None:
            return fields
        if not fields.get("prompt"):
            raise InvalidParameter("prompt: field required where no edges are given", param="prompt")
        try:
            guidance = from_json(fields.get("ttlg", {}))
        except ValueError:  # which is said when the field is read
            return fields
        if isinstance(guidance, Mapping):
            fields = {**fields, "ttlg": {"edge_scale": 0.0, **cast("Mapping[str, Any]", guidance)}}
        return fields


class UpscaleJob(SingleRequest):
    """Make a video, or a picture, two to four times as large."""

    MEDIA = {"input_video": "video", "image": "image"}  # noqa: RUF012
    REFERENCE = "input_video"
    STAGES = {"upscale": 1.0}  # noqa: RUF012

    input_video: str | None = None
    """What to enlarge. A picture is taken for a video of one frame."""
    image: str | None = None
    """A picture to enlarge: the result is `image`, a picture, and no video."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "UpscaleJob":
        if (self.input_video is None) == (self.image is None):
            raise InvalidParameter("input_video: give either this or image", param="input_video")
        return self

    @property
    def main(self) -> str:
        return VIDEO if self.image is None else IMAGE

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        return {VIDEO} if params.get("image") is None else set()


JOBS: Mapping[Role, type[SingleRequest]] = {
    "guided-edit": EditJob,
    "image-to-video": AnimationJob,
    "restyle": RepaintJob,
    "text-to-image": PictureJob,
    "text-to-video": FilmJob,
    "upscale": UpscaleJob,
}
"""Role → what a job of a model alone takes beside the model's fields. Other roles give no frames or pictures."""
