"""Requests to Qwen-Image-Edit and their limits."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size, parse_json_object
from services.weights.request import LoraList, name_lora_set

DEFAULT_PROMPT = "将图 2 按图 1 所勾勒出的精致形状进行变形，生成一张图像输出"
"""In English: deform image 2 to follow the fine outlines in image 1, and generate one image."""

MAX_PICTURES = 3
"""Maximum number of pictures that the model sees: the edges, the image to edit, and references. The 2509 checkpoint was
trained with one to three."""

EdgeFilter = Literal["none", "sobel", "laplacian"]
LossKind = Literal["mse", "l1", "charbonnier"]


def _plain(text: str) -> str:
    """Reject special tokens: the tokenizer parses them, and an extra `<|image_pad|>` would shift all images."""
    begin = text.find("<|")
    if begin >= 0 and "|>" in text[begin:]:
        raise ValueError("must not contain special tokens of the form <|…|>")
    return text


Prompt = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_plain)]
Scale = Annotated[float, Field(ge=0, le=1e6)]


class Guidance(BaseModel):
    """Test-time loss guidance (TTLG): gradients of losses that steer the sampling of an image.

    The gradient is normalized to a root mean square of 1, so the three scales are relative weights of the losses, and
    `lr` alone is the step size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    edge_scale: Scale = 1.0
    """Weight of the edge loss; 0 turns it off."""
    gram_scale: Scale = 0.0
    """Weight of the loss between Gram matrices of VGG16 features, which keeps the first frame's style; 0 is off."""
    temporal_scale: Scale = 0.0
    """Weight of the loss between the result and the input image; 0 turns it off."""
    lr: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Root mean square of one update, relative to the standard deviation of the latents (about 1)."""
    every: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    """Interval between guided denoising steps."""
    start_step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] = 0
    """Index of the first guided step, from 0."""
    end_step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] | None = None
    """Index of the last guided step; by default the last step."""
    last_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Guide only this number of steps at the end."""
    edge_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Longer side of the images whose edges are compared, in pixels; by default that of the input image."""
    gram_size: Annotated[int, Field(ge=32, le=4096)] = 224
    """Longer side of the images passed to VGG16, in pixels."""
    inner_steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Updates at each guided step."""
    loss: LossKind = "mse"
    """Distance between two edge maps or images: mean squared error, mean absolute error, or Charbonnier (smooth L1)."""

    @model_validator(mode="after")
    def _there_is_a_window(self) -> "Guidance":
        if self.end_step is not None and self.start_step > self.end_step:
            raise InvalidParameter(
                f"ttlg.start_step: must not be after end_step, got {self.start_step} and {self.end_step}",
                param="ttlg.start_step",
            )
        return self

    @property
    def on(self) -> bool:
        """Whether any loss has a weight."""
        return max(self.edge_scale, self.gram_scale, self.temporal_scale) > 0


class Editing(BaseModel):
    """Sampling options of Qwen-Image-Edit. The defaults are those of the 2509 checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Prompt = DEFAULT_PROMPT
    """Editing instruction. Image 1 is the image to edit and the references follow; with an edge image, image 1 is the
    edges and the others follow."""
    negative_prompt: Prompt = " "
    """What the image should not show; used if `true_cfg_scale` is above 1."""
    steps: Annotated[int, Field(ge=2, le=MAX_STEPS)] = 40
    """Denoising steps, at least 2: the noise schedule is rescaled to a fixed final noise level."""
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 4.0
    """Scale of classifier-free guidance; 1 or less turns it off and halves the time."""
    seed: Seed = -1
    """Random seed: equal seeds give equal pixels. -1 draws a random seed and reports it."""
    max_area: Annotated[int, Field(ge=32 * 32, le=4096 * 4096)] = 1024 * 1024
    """Largest number of pixels to sample. A larger image is sampled at a lower resolution and then enlarged."""
    ttlg: Annotated[Guidance, BeforeValidator(parse_json_object)] = Guidance()
    """Test-time loss guidance."""
    loras: LoraList = ()
    """Low-rank adaptations (LoRAs) of the model. A string has the form `name` or `name:weight`."""

    @property
    def lora_set(self) -> str:
        """The LoRAs by which requests are routed."""
        return name_lora_set(self.loras)

    @model_validator(mode="after")
    def _guidance_begins_in_time(self) -> "Editing":
        if self.ttlg.on and self.ttlg.start_step >= self.steps:
            raise InvalidParameter(
                f"ttlg.start_step: must be below steps, got {self.ttlg.start_step} of {self.steps} steps",
                param="ttlg.start_step",
            )
        return self


class EditRequest(Editing):
    """Edit one image."""

    size: Size | None = None
    """Size of the result, `WIDTHxHEIGHT` in pixels; by default that of the input image."""
    edge_filter: EdgeFilter = "none"
    """Filter that extracts edges from the edge image; `none` if it already shows edges."""
    debug: bool = False
    """Also return the edge images and the change made by the last guided step."""
