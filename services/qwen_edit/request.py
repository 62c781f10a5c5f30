"""What may be asked of Qwen-Image-Edit, within which limits."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size, parse_json_object

DEFAULT_PROMPT = "将图 2 按图 1 所勾勒出的精致形状进行变形，生成一张图像输出"
"""Reshape picture 2 along the fine outlines that picture 1 draws, and put out one picture."""

EdgeFilter = Literal["none", "sobel", "laplacian"]
LossKind = Literal["mse", "l1", "charbonnier"]


def _plain(text: str) -> str:
    """The tokenizer reads its own marks wherever they stand, and one `<|image_pad|>` more would move every picture."""
    begin = text.find("<|")
    if begin >= 0 and "|>" in text[begin:]:
        raise ValueError("must not contain marks of the form <|…|>, which the model takes for commands")
    return text


Prompt = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_plain)]
Scale = Annotated[float, Field(ge=0, le=1e6)]


class Guidance(BaseModel):
    """Test-time loss guidance (TTLG): how a picture is steered by losses while it is sampled.

    The gradient is scaled to a root mean square of one before it is used, so the three scales say what the losses weigh
    against each other, and `lr` alone how far each update goes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    edge_scale: Scale = 1.0
    """Weight of the edge loss; 0 turns it off."""
    gram_scale: Scale = 0.0
    """Weight of the loss between Gram matrices of VGG16 features, which holds the first frame's style; 0 is off."""
    temporal_scale: Scale = 0.0
    """Weight of the difference to the picture that is edited; 0 turns it off."""
    lr: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Root mean square of one update, in units of the latents' spread (the VAE normalises them to about 1)."""
    every: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    """Guide at every so many denoising steps."""
    start_step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] = 0
    """The first step that may be guided, counted from 0."""
    end_step: Annotated[int, Field(ge=0, lt=MAX_STEPS)] | None = None
    """The last step that may be guided; by default the last there is."""
    last_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Guide only in the last so many steps."""
    edge_size: Annotated[int, Field(ge=32, le=4096)] | None = None
    """Pixels of the longer side at which edges are compared; by default the picture's own."""
    gram_size: Annotated[int, Field(ge=32, le=4096)] = 224
    """Pixels of the longer side that VGG16 sees."""
    inner_steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Updates at each guided step."""
    loss: LossKind = "mse"
    """How two edge maps, or two pictures, differ: squared, absolute, or absolute and smooth at zero."""

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
        """Whether there is anything to guide by."""
        return max(self.edge_scale, self.gram_scale, self.temporal_scale) > 0


class Editing(BaseModel):
    """How Qwen-Image-Edit samples. The defaults are those of the 2509 checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    prompt: Prompt = DEFAULT_PROMPT
    """What to do. Where edges are given they are picture 1, and picture 2 is edited; else picture 1 is edited."""
    negative_prompt: Prompt = " "
    """What the picture should not show; used while `true_cfg_scale` is above 1."""
    steps: Annotated[int, Field(ge=2, le=MAX_STEPS)] = 40
    """Denoising steps. The noise schedule is stretched to end at a given level, and a single step cannot be."""
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 4.0
    """Classifier-free guidance; 1 or less turns it off and halves the time."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""
    max_area: Annotated[int, Field(ge=32 * 32, le=4096 * 4096)] = 1024 * 1024
    """The most pixels at which a picture is sampled. A larger one is sampled smaller, and enlarged again."""
    ttlg: Annotated[Guidance, BeforeValidator(parse_json_object)] = Guidance()
    """Guidance at test time."""

    @model_validator(mode="after")
    def _guidance_begins_in_time(self) -> "Editing":
        if self.ttlg.on and self.ttlg.start_step >= self.steps:
            raise InvalidParameter(
                f"ttlg.start_step: must be below steps, got {self.ttlg.start_step} of {self.steps} steps",
                param="ttlg.start_step",
            )
        return self


class EditRequest(Editing):
    """One picture, edited."""

    size: Size | None = None
    """`WIDTHxHEIGHT` of the result in pixels; by default the picture's own."""
    edge_filter: EdgeFilter = "none"
    """How edges are taken from the edge picture; `none` where it shows edges already."""
    debug: bool = False
    """Put out, beside the result, the edges and what the last guided step changed."""
