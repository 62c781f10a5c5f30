"""What may be asked of HunyuanDiT, within which limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_STEPS, MAX_TEXT, Seed


class RestyleRequest(BaseModel):
    """One picture, painted anew. The defaults are those of the v1.2-Distilled checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """The style, and what is to be seen. BERT reads 77 tokens of it and mT5 256; what is beyond them is ignored."""
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the picture should not show."""
    strength: Annotated[float, Field(ge=0, le=1)] = 0.6
    """How much of the noise schedule is done. At 1 little is left of the picture; 0 gives it back as it is."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps of the whole schedule, of which the last `strength` part is done, and at least one."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Classifier-free guidance; 1 or less turns it off and halves the time."""
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the guided noise is brought back to the contrast of the unguided; helps against overexposure."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""
    max_area: Annotated[int, Field(ge=32 * 32, le=4096 * 4096)] = 1024 * 1024
    """The most pixels at which a picture is sampled. A larger one is sampled smaller, and enlarged again."""

    @property
    def steps_done(self) -> int:
        """Denoising steps that are really done."""
        return max(1, round(self.steps * self.strength)) if self.strength > 0 else 0
