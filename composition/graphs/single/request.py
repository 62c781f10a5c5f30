"""The requests of single-model jobs: the media that a role takes, besides the fields of the model's own request."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, cast

from pydantic import model_validator

from composition.graphs.fields import read_fps
from composition.graphs.request import GraphRequest, MediaRequest
from composition.media.fault_kinds import FaultKind
from composition.variants import IMAGE, VIDEO
from services.errors import InvalidParameter, LimitExceeded
from services.limits import parse_json_object
from services.model import Offer
from services.qwen_edit.request import MAX_PICTURES


class SingleRequest(GraphRequest):
    """A job of a single model."""

    OFFER: ClassVar[Offer]
    """The role that the model takes, and the request that it accepts."""

    @classmethod
    def set_duration(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        if "num_frames" not in cls.model_fields:
            return super().set_duration(seconds, fields, rate)
        count_frames: Callable[[float, float], int] | None = getattr(cls, "count_frames", None)
        if count_frames is not None:
            return {**fields, "num_frames": count_frames(seconds, rate)}
        fps = read_fps(fields, cls) if "fps" in cls.model_fields else rate
        return {**fields, "num_frames": max(2, round(seconds * fps))}


class AnimationJob(SingleRequest, MediaRequest):
    """Generate a video that begins with a picture."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"

    image: str
    """The first frame."""


class FilmJob(SingleRequest):
    """Generate a video from a prompt."""


class PictureJob(SingleRequest):
    """Generate a picture from a prompt."""

    @model_validator(mode="after")
    def _check_count(self) -> "PictureJob":
        count = getattr(self, "n", 1)
        if count != 1:
            raise InvalidParameter(f"n: must be 1 for a job, got {count}", param="n")
        return self

    @property
    def main_variant(self) -> str:
        return IMAGE


class RepaintJob(PictureJob, MediaRequest):
    """Restyle a picture."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"

    image: str
    """The picture to restyle."""


class EditJob(RepaintJob):
    """Edit a picture, with other pictures for reference."""

    MEDIA = {"image": "image", "edges": "image", "references": "pictures"}  # noqa: RUF012

    image: str
    """The picture to edit."""
    edges: str | None = None
    """A picture of the edges to follow, white on black; with `edge_filter`, any picture."""
    references: str | None = None
    """Pictures that the prompt may refer to: at most two, or one with `edges`."""

    @model_validator(mode="before")
    @classmethod
    def _disable_unused_edge_guidance(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        if fields.get("edges") is not None:
            return fields
        if not fields.get("prompt"):
            raise InvalidParameter("prompt: field required if no edges are given", param="prompt")
        try:
            guidance = parse_json_object(fields.get("ttlg", {}))
        except ValueError:  # reported when the field is validated
            return fields
        if isinstance(guidance, Mapping):
            fields = {**fields, "ttlg": {"edge_scale": 0.0, **cast("Mapping[str, Any]", guidance)}}
        return fields

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check the number of pictures. Raises LimitExceeded."""
        most = MAX_PICTURES - (1 if self.edges is None else 2)
        given = frames.get("references", 0)
        if given > most:
            beside = "image" if self.edges is None else "image and edges"
            raise LimitExceeded(f"references: at most {most} beside {beside}, got {given}", param="references")


class UpscaleJob(SingleRequest, MediaRequest):
    """Upscale a video or a picture two to four times."""

    MEDIA = {"input_video": "video", "image": "image"}  # noqa: RUF012
    REFERENCE = "input_video"
    KEPT_ALPHA = frozenset({"image"})

    input_video: str | None = None
    """The video to upscale. A picture counts as a video of one frame."""
    image: str | None = None
    """The picture to upscale; the result is the picture `image`. It keeps its transparency, unless `background` is
    set."""

    @model_validator(mode="after")
    def _check_source(self) -> "UpscaleJob":
        if (self.input_video is None) == (self.image is None):
            raise InvalidParameter("input_video: give either this or image", param="input_video")
        return self

    @property
    def faults(self) -> Collection[FaultKind]:
        """Kinds of faults that are looked for; all others may be those of the user's video."""
        return ("flat",)

    @property
    def main_variant(self) -> str:
        return VIDEO if self.image is None else IMAGE

    @classmethod
    def list_videos(cls, params: Mapping[str, Any], outputs: Collection[str]) -> set[str]:
        return set(outputs) if params.get("image") is None else set()
