"""Requests to HunyuanDiT and their limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_STEPS, MAX_TEXT, Seed


class RestyleRequest(BaseModel):
    """Restyle one image. The defaults are those of the v1.2-Distilled checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """Description of the style and the content. BERT reads its first 77 tokens and mT5 its first 256."""
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the image should not show."""
    strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Fraction of the noise schedule that is run. At 1 the result has little in common with the input image; 0 returns
    the image unchanged."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps of the whole schedule. Only the last `strength` fraction of them is run, at least one step."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Scale of classifier-free guidance; 1 or less turns it off and halves the time."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the guided noise is rescaled to the standard deviation of the unguided noise; reduces overexposure."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""
    max_area: Annotated[int, Field(ge=32 * 32, le=4096 * 4096)] = 1024 * 1024
    """Largest number of pixels to sample. A larger image is sampled at a lower resolution and then enlarged."""

    @property
    def steps_done(self) -> int:
        """Denoising steps that are run."""
        return max(1, round(self.steps * self.strength)) if self.strength > 0 else 0
