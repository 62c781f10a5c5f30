"""Requests to Wan and their limits."""

from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from services.limits import MAX_TEXT, PictureFit, Seed, Size
from services.weights.request import MAX_LORAS, Lora, check_once, name_lora_set, parse_lora, parse_loras

MAX_FRAMES = 1_000
"""Far beyond the length that Wan was trained on. The configuration sets the operator's lower limit."""


def _latent_aligned(num_frames: int) -> int:
    if num_frames % 4 != 1:
        lower = (num_frames - 1) // 4 * 4 + 1
        raise ValueError(f"must be a multiple of 4 plus 1, e.g. {lower} or {lower + 4}")
    return num_frames


Expert = Literal["high", "low", "both"]


class WanLora(Lora):
    """A low-rank adaptation (LoRA) of Wan that is active for this request only."""

    expert: Expert = "both"
    """Expert that uses the LoRA: high-noise, low-noise, or all experts of the checkpoint."""

    @property
    def expert_name(self) -> str:
        return "" if self.expert == "both" else self.expert


def _parse_loras(value: object) -> object:
    """Parse LoRAs as `parse_loras` does; a text may end with `:high` or `:low`."""
    return parse_loras(value, _parse_lora)


def _parse_lora(entry: object) -> object:
    if isinstance(entry, str) and not entry.lstrip().startswith("{"):
        name, _, expert = entry.rpartition(":")
        parsed = parse_lora(name)
        if expert in ("high", "low") and isinstance(parsed, dict):
            return {**cast("dict[str, object]", parsed), "expert": expert}
    return parse_lora(entry)


class Denoising(BaseModel):
    """Sampling options of Wan. The defaults are those of Wan2.2; a configuration may set others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES), AfterValidator(_latent_aligned)] = 121
    """Number of frames, including the input image: a multiple of 4, plus 1."""
    max_area: Annotated[int, Field(ge=16 * 16, le=4096 * 4096)] = 704 * 1280
    """Largest number of pixels of a frame. Width and height are chosen to keep the image's aspect ratio, or near 16:9
    without an image."""
    size: Size | None = None
    """`WIDTHxHEIGHT` in pixels, instead of `max_area`. With `pad` the largest size of this aspect ratio that the
    checkpoint can generate within it; where the image has another, its edge pixels are repeated at two sides. With
    `crop` and `stretch`, and without an image, rounded down to a supported size."""
    steps: Annotated[int, Field(ge=1, le=1_000)] = 40
    """Denoising steps."""
    shift: Annotated[float, Field(gt=0, le=100)] = 5.0
    """Flow shift of the noise schedule."""
    solver: Literal["unipc", "dpm++"] = "unipc"
    """Solver of the sampler."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 5.0
    """Scale of classifier-free guidance; 1 or less turns it off."""
    guidance_scale_2: Annotated[float, Field(ge=0, le=100)] | None = None
    """Guidance scale of the low-noise expert if the checkpoint has two experts; by default `guidance_scale`."""
    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What the video should not show."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""
    loras: Annotated[
        tuple[WanLora, ...],
        Field(max_length=MAX_LORAS),
        BeforeValidator(
            _parse_loras, json_schema_input_type=Annotated[tuple[WanLora | str, ...], Field(max_length=MAX_LORAS)]
        ),
        AfterValidator(check_once),
    ] = ()
    """Low-rank adaptations (LoRAs) of the model. A string has the form `name` or `name:weight`, and may end with
    `:high` or `:low` to select one expert of a checkpoint that has two."""

    @property
    def lora_set(self) -> str:
        """The LoRAs by which requests are routed."""
        return name_lora_set(self.loras)

    @staticmethod
    def count_frames(seconds: float, rate: float) -> int:
        """Return the number of frames, 4k + 1, that last about `seconds` at `rate` frames per second."""
        return 1 + 4 * max(1, round(seconds * rate / 4))


class Sampling(Denoising):
    """Sampling options of Wan for a video that begins with an image."""

    fit: PictureFit = "pad"
    """How the image is fitted into a size that the checkpoint supports. `pad` scales the whole image, repeats its edge
    pixels around it and cuts them off the video: nothing is lost or distorted. `crop` cuts off what extends beyond the
    supported size, evenly at two sides. `stretch` changes the aspect ratio."""


class WanRequest(Sampling):
    """Animate an image, guided by a prompt."""

    prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """Description of the video."""


class WanTextRequest(Denoising):
    """Generate a video from a prompt."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """Description of the video."""
