"""Requests to ModelScope's text-to-video model and their limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size

MAX_FRAMES = 250
"""The model card uses up to 200 frames. The configuration sets the operator's lower limit."""


class Filming(BaseModel):
    """Sampling options. The defaults are those of text-to-video-ms-1.7b; a configuration may set others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the video should not show; used if `guidance_scale` is above 1."""
    num_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 16
    """Number of frames. The model was trained on 16; other lengths work but look worse."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 25
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 9.0
    """Scale of classifier-free guidance; 1 or less turns it off and halves the time."""
    fps: Annotated[int, Field(ge=1, le=60)] = 8
    """Frames per second of the video; not an input of the model."""
    size: Size = "256x256"
    """`WIDTHxHEIGHT` in pixels; rounded down to a size that the checkpoint supports."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""


class TextToVideoRequest(Filming):
    """Generate a video from a prompt."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """Description of the video, in English. CLIP reads the first 77 tokens."""
