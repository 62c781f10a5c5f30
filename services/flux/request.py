"""Requests to Flux and their limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size
from services.weights.request import LoraList, name_lora_set

MAX_PICTURES = 10
"""Images in one request."""


class Painting(BaseModel):
    """Sampling options of Flux. The defaults are those of FLUX.1-dev."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the image should not show; used if `true_cfg_scale` is above 1."""
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Scale of classifier-free guidance with `negative_prompt`; 1 or less turns it off and halves the time."""
    size: Size = "1024x1024"
    """`WIDTHxHEIGHT` in pixels; rounded down to multiples of 16."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 28
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 3.5
    """Guidance scale that the distilled checkpoint takes as an input; it does not affect the time."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""
    loras: LoraList = ()
    """Low-rank adaptations (LoRAs) of the model. A string has the form `name` or `name:weight`."""
    identity_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Strength of the face image; 0 turns it off."""
    identity_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the steps after which the face is applied."""
    identity_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Fraction of the steps after which the face is no longer applied."""

    @property
    def lora_set(self) -> str:
        """The LoRAs by which requests are routed."""
        return name_lora_set(self.loras)

    @model_validator(mode="after")
    def _there_is_a_window(self) -> "Painting":
        if self.identity_start >= self.identity_end:
            raise InvalidParameter(
                f"identity_start: must be below identity_end, got {self.identity_start} and {self.identity_end}",
                param="identity_start",
            )
        return self


class FluxRequest(Painting):
    """Generate images from a prompt."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """Description of the image."""
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 1
    """Number of images. Their seeds are `seed`, `seed` + 1, and so on."""
