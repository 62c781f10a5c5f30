"""What may be asked of Wan, within which limits."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.limits import MAX_TEXT, Seed, Size

MAX_FRAMES = 1_000
"""Beyond this nothing that Wan was made for is left; the operator's own, lower limit is in the configuration."""


def _latent_aligned(num_frames: int) -> int:
    if num_frames % 4 != 1:
        lower = (num_frames - 1) // 4 * 4 + 1
        raise ValueError(f"must be a multiple of 4 plus 1, e.g. {lower} or {lower + 4}")
    return num_frames


class Sampling(BaseModel):
    """How Wan samples. The defaults are Wan2.2's; a configuration may set others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES), AfterValidator(_latent_aligned)] = 121
    """Frames to make, the picture that is given among them: a multiple of 4 plus 1."""
    max_area: Annotated[int, Field(ge=16 * 16, le=4096 * 4096)] = 704 * 1280
    """The most pixels a frame may have; width and height keep the picture's aspect within it."""
    size: Size | None = None
    """`WIDTHxHEIGHT` in pixels, instead of `max_area`; rounded down to what the checkpoint can make."""
    steps: Annotated[int, Field(ge=1, le=1_000)] = 40
    """Denoising steps."""
    shift: Annotated[float, Field(gt=0, le=100)] = 5.0
    """Flow shift of the noise schedule."""
    solver: Literal["unipc", "dpm++"] = "unipc"
    """Sampler."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Classifier-free guidance; 1 or less turns it off."""
    guidance_scale_2: Annotated[float, Field(ge=0, le=100)] | None = None
    """The low-noise expert's guidance, where the checkpoint has two experts; by default the same."""
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the video should not show."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""


class WanRequest(Sampling):
    """A video that begins with a given picture."""

    prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the video shows."""

    @staticmethod
    def count_frames(seconds: float, rate: float) -> int:
        """Return how many frames, 4k + 1, last about `seconds` at `rate` frames per second."""
        return 1 + 4 * max(1, round(seconds * rate / 4))
