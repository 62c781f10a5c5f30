"""Requests to Stable Video Diffusion and their limits."""

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, PictureFit, Seed, Size

MAX_FRAMES = 250
"""Ten times the length that SVD-XT was trained on. The configuration sets the operator's lower limit."""


class Animation(BaseModel):
    """Sampling options of Stable Video Diffusion. The defaults are those of SVD-XT; a configuration may set others.

    `guidance_scale` is an alias of `max_guidance_scale`. There is no prompt: only the image conditions the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 25
    """Number of frames. SVD-XT was trained on 25 and SVD on 14; other lengths work but look worse."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps."""
    fps: Annotated[int, Field(ge=1, le=60)] = 6
    """Frames per second of the video; also an input of the model."""
    motion_bucket_id: Annotated[int, Field(ge=1, le=255)] = 127
    """Amount of motion; larger values give more motion."""
    noise_aug_strength: Annotated[float, Field(ge=0, le=10)] = 0.02
    """Standard deviation of the noise added to the image, whose values range from -1 to 1. More noise gives more motion
    and less similarity to the image."""
    min_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Scale of classifier-free guidance for the first frame; it increases linearly to `max_guidance_scale`."""
    max_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Scale of classifier-free guidance for the last frame; 1 or less turns guidance off for all frames and halves the
    time. `guidance_scale` is an alias of this field."""
    fit: PictureFit = "pad"
    """How the image is fitted into a size that the checkpoint supports. `pad` scales the whole image, repeats its edge
    pixels around it and cuts them off the video: nothing is lost or distorted. `crop` cuts off what extends beyond the
    supported size, evenly at two sides. `stretch` changes the aspect ratio."""

    @model_validator(mode="before")
    @classmethod
    def _read_aliases(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        for name in ("prompt", "negative_prompt"):
            if fields.get(name):
                raise InvalidParameter(
                    f"{name}: not supported by Stable Video Diffusion, whose only input is the picture", param=name
                )
        given = {name: value for name, value in fields.items() if name not in {"prompt", "negative_prompt"}}
        if "guidance_scale" in given:
            if "max_guidance_scale" in given:
                raise InvalidParameter(
                    "guidance_scale: give one of guidance_scale and max_guidance_scale, its other name",
                    param="guidance_scale",
                )
            given["max_guidance_scale"] = given.pop("guidance_scale")
        return given

    @model_validator(mode="after")
    def _guidance_grows(self) -> "Animation":
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if low > max(high, 1.0):  # below 1 both mean off, and one field suffices to turn it off
            raise InvalidParameter(
                f"min_guidance_scale: must not be above max_guidance_scale, got {low} and {high}",
                param="min_guidance_scale",
            )
        return self


class SvdRequest(Animation):
    """Animate an image."""

    max_area: Annotated[int, Field(ge=64 * 64, le=4096 * 4096)] = 576 * 1024
    """Largest number of pixels of a frame. Width and height are chosen to keep the image's aspect ratio."""
    size: Size | None = None
    """`WIDTHxHEIGHT` in pixels, instead of `max_area`. With `pad` the largest size of this aspect ratio that the
    checkpoint can generate within it; where the image has another, its edge pixels are repeated at two sides. With
    `crop` and `stretch` rounded down to a supported size."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""
