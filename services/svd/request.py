"""What may be asked of Stable Video Diffusion, within which limits."""

from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, Seed, Size

MAX_FRAMES = 250
"""Ten times what SVD-XT was trained on; the operator's own, lower limit is in the configuration."""


class Animation(BaseModel):
    """How Stable Video Diffusion samples. The defaults are SVD-XT's; a configuration may set others.

    `guidance_scale` is read as `max_guidance_scale`. There is no prompt: the picture is all that conditions the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 25
    """Frames to make. SVD-XT was trained on 25 and SVD on 14; other lengths work, and look worse."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps."""
    fps: Annotated[int, Field(ge=1, le=60)] = 6
    """Frames per second: the model is told of it, and the video is played at it."""
    motion_bucket_id: Annotated[int, Field(ge=1, le=255)] = 127
    """How much moves; more is more."""
    noise_aug_strength: Annotated[float, Field(ge=0, le=10)] = 0.02
    """Noise added to the picture, in units of its range of -1 to 1; more gives more motion, less likeness."""
    min_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Classifier-free guidance of the first frame; it grows evenly to that of the last."""
    max_guidance_scale: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Classifier-free guidance of the last frame; 1 or less turns it off for all and halves the time. It may also be
    given as `guidance_scale`."""

    @model_validator(mode="before")
    @classmethod
    def _read_aliases(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cast("dict[str, Any]", values)
        for name in ("prompt", "negative_prompt"):
            if fields.get(name):
                raise InvalidParameter(
                    f"{name}: Stable Video Diffusion takes none: it animates the picture and reads no text", param=name
                )
        given = {name: value for name, value in fields.items() if name not in {"prompt", "negative_prompt"}}
        if "guidance_scale" in given:
            if "max_guidance_scale" in given:
                raise InvalidParameter(
                    "guidance_scale: is max_guidance_scale by another name; give one of guidance_scale and"
                    " max_guidance_scale",
                    param="guidance_scale",
                )
            given["max_guidance_scale"] = given.pop("guidance_scale")
        return given

    @model_validator(mode="after")
    def _guidance_grows(self) -> "Animation":
        low, high = self.min_guidance_scale, self.max_guidance_scale
        if low > max(high, 1.0):  # below 1 both mean off, and turning it off by the one alone must do
            raise InvalidParameter(
                f"min_guidance_scale: must not be above max_guidance_scale, got {low} and {high}",
                param="min_guidance_scale",
            )
        return self


class SvdRequest(Animation):
    """A video that begins with a given picture."""

    max_area: Annotated[int, Field(ge=64 * 64, le=4096 * 4096)] = 576 * 1024
    """The most pixels a frame may have; width and height keep the picture's aspect within it."""
    size: Size | None = None
    """`WIDTHxHEIGHT` in pixels, instead of `max_area`; rounded down to what the checkpoint can make."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""
