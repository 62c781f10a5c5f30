"""The requests of single-model jobs: the media that a role takes, besides the fields of the model's own request."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self, cast

from pydantic import model_validator

from composition.graphs.fields import read_fps
from composition.graphs.request import GraphRequest, MediaRequest
from composition.media.fault_kinds import FaultKind
from composition.variants import IMAGE, VIDEO
from services.errors import InvalidParameter, LimitExceeded
from services.limits import parse_json_object
from services.model import Offer, Role
from services.qwen_edit.request import MAX_PICTURES

IMAGE_TO_VIDEO: Role = "image-to-video"
TEXT_TO_VIDEO: Role = "text-to-video"


class SingleRequest(GraphRequest):
    """A job of a single model."""

    OFFERS: ClassVar[tuple[Offer, ...]]
    """The roles that the model can take, each with the request that it accepts."""

    @property
    def offer(self) -> Offer:
        """The role that the model takes for this request."""
        return self.OFFERS[0]

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


class ClipJob(SingleRequest, MediaRequest):
    """Generate a video from a prompt, or one that begins with a picture."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"

    image: str | None = None
    """The first frame. Without it, the video is generated from the prompt alone. Some checkpoints need it, others do
    not accept it."""

    @model_validator(mode="after")
    def _check_pictures(self) -> "ClipJob":
        if self.image is None:
            for name in self.MEDIA:
                if getattr(self, name) is not None:
                    raise InvalidParameter(f"{name}: only valid with image", param=name)
        return self

    @property
    def offer(self) -> Offer:
        role = TEXT_TO_VIDEO if self.image is None else IMAGE_TO_VIDEO
        return next(offer for offer in self.OFFERS if offer.role == role)

    def drop_unserved(self, roles: Collection[str]) -> Self:
        """Return the request with only the model of its role. Raises InvalidParameter if the model cannot take it."""
        role = self.offer.role
        if role not in roles and self.image is None:
            raise InvalidParameter("image: required, because this model animates a picture", param="image")
        if role not in roles:
            raise InvalidParameter("image: this model generates videos from a prompt alone", param="image")
        if self.image is None and not getattr(self, "prompt", ""):
            raise InvalidParameter("prompt: field required if no image is given", param="prompt")
        return self.model_copy(update={"models": {name: model for name, model in self.models.items() if name == role}})

    @classmethod
    def list_unused(cls, roles: Collection[str]) -> Collection[str]:
        return () if IMAGE_TO_VIDEO in roles else {*cls.MEDIA, "background", "fit"}


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
