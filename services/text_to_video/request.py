"""What may be asked of ModelScope's text-to-video, within which limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size

MAX_FRAMES = 250
"""The model card goes to 200; the operator's own, lower limit is in the configuration."""


class Filming(BaseModel):
    """How the model samples. The defaults are those of text-to-video-ms-1.7b; a configuration may set others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What not to show; used while `guidance_scale` is above 1."""
    num_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 16
    """Frames to make. The model was trained on 16; other lengths work, and look worse."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 9.0
    """Classifier-free guidance; 1 or less turns it off and halves the time."""
    fps: Annotated[int, Field(ge=1, le=60)] = 8
    """Frames per second at which the video is played; the model is not told of it."""
    size: Size = "256x256"
    """`WIDTHxHEIGHT` in pixels; rounded down to what the checkpoint can make."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""


class TextToVideoRequest(Filming):
    """A video of what a text says."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What the video shows, in English. CLIP reads the first 77 tokens."""
