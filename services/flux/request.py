"""Requests to Flux and their limits."""

from pathlib import PurePosixPath
from typing import Annotated, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size, parse_json_object

MAX_LORAS = 8
"""LoRAs in one request."""
MAX_PICTURES = 10
"""Images in one request."""


def _stem(name: str) -> str:
    """Return the normalized name of a file: `style`, `./style` and `style.safetensors` are equal."""
    return str(PurePosixPath(name.removesuffix(".safetensors")))


LoraName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\\\x00]+$"), AfterValidator(_stem)]


class Lora(BaseModel):
    """A low-rank adaptation (LoRA) that is active for this request only."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: LoraName
    """Path of a safetensors file in the deployment's LoRA folder, without the extension, or a name from its list."""
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """Strength of the LoRA; 0 turns it off."""


def _parse_loras(value: object) -> object:
    """Parse the LoRAs of a form field or a command line: JSON, or `name` or `name:weight` instead of an object."""
    if isinstance(value, str):
        value = parse_json_object(value) if value.lstrip()[:1] in ("[", "{") else [value]
    entries = cast("list[object]", value if isinstance(value, list | tuple) else [value])
    if len(entries) > MAX_LORAS:
        raise ValueError(f"should have at most {MAX_LORAS} items, not {len(entries)}")
    return [_parse_lora(entry) for entry in entries]


def _parse_lora(entry: object) -> object:
    if not isinstance(entry, str):
        return entry
    if entry.lstrip().startswith("{"):
        return parse_json_object(entry)
    name, colon, weight = entry.rpartition(":")
    return {"name": name, "weight": weight} if colon else {"name": entry}


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
    loras: Annotated[
        tuple[Lora, ...],
        Field(max_length=MAX_LORAS),
        BeforeValidator(
            _parse_loras, json_schema_input_type=Annotated[tuple[Lora | str, ...], Field(max_length=MAX_LORAS)]
        ),
    ] = ()
    """Low-rank adaptations (LoRAs) of the model. A string has the form `name` or `name:weight`."""
    identity_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Strength of the face image; 0 turns it off."""
    identity_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the steps after which the face is applied."""
    identity_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Fraction of the steps after which the face is no longer applied."""

    @property
    def lora_set(self) -> str:
        """The sorted names of the LoRAs, joined by `+`: requests with equal sets are routed to the same replica."""
        return "+".join(sorted(lora.name for lora in self.loras))

    @model_validator(mode="after")
    def _each_lora_once(self) -> "Painting":
        names = [lora.name for lora in self.loras]
        for name in names:
            if names.count(name) > 1:
                raise InvalidParameter(
                    f"loras: {name} must be listed once, got {names.count(name)} times", param="loras"
                )
        return self

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
