"""What may be asked of Flux, within which limits."""

from pathlib import PurePosixPath
from typing import Annotated, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.limits import MAX_STEPS, MAX_TEXT, Seed, Size, parse_json_object

MAX_LORAS = 8
"""In one request."""
MAX_PICTURES = 10
"""In one request."""


def _stem(name: str) -> str:
    """One spelling for one file: `style`, `./style` and `style.safetensors` are the same."""
    return str(PurePosixPath(name.removesuffix(".safetensors")))


LoraName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\\\x00]+$"), AfterValidator(_stem)]


class Lora(BaseModel):
    """A low-rank adaptation that is on for this request alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: LoraName
    """A safetensors file in the deployment's directory, by its path without the ending; or a name on its list."""
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """How strongly it acts; 0 leaves it out."""


def _listed(value: object) -> object:
    """Read what a form or a command line can say: JSON, and `name` or `name:weight` in place of an object."""
    if isinstance(value, str):
        value = parse_json_object(value) if value.lstrip()[:1] in ("[", "{") else [value]
    entries = cast("list[object]", value if isinstance(value, list | tuple) else [value])
    if len(entries) > MAX_LORAS:
        raise ValueError(f"should have at most {MAX_LORAS} items, not {len(entries)}")
    return [_lora(entry) for entry in entries]


def _lora(entry: object) -> object:
    if not isinstance(entry, str):
        return entry
    if entry.lstrip().startswith("{"):
        return parse_json_object(entry)
    name, colon, weight = entry.rpartition(":")
    return {"name": name, "weight": weight} if colon else {"name": entry}


class Painting(BaseModel):
    """How Flux samples. The defaults are those of FLUX.1-dev."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    negative_prompt: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    """What not to show; used while `true_cfg_scale` is above 1."""
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Classifier-free guidance by `negative_prompt`; 1 or less turns it off and halves the time."""
    size: Size = "1024x1024"
    """`WIDTHxHEIGHT` in pixels; rounded down to multiples of 16."""
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 28
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 3.5
    """The guidance that the checkpoint was distilled to follow; it costs no time."""
    seed: Seed = -1
    """The same seed makes the same pixels; -1 draws one, and says which."""
    loras: Annotated[
        tuple[Lora, ...],
        Field(max_length=MAX_LORAS),
        BeforeValidator(_listed, json_schema_input_type=Annotated[tuple[Lora | str, ...], Field(max_length=MAX_LORAS)]),
    ] = ()
    """Low-rank adaptations of the model; a text is `name` or `name:weight`."""
    identity_strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """How strongly the given face acts; 0 is as if there were none."""
    identity_start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The part of the steps after which the face begins to act."""
    identity_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The part of the steps after which the face no longer acts."""

    @property
    def lora_set(self) -> str:
        """The names of its LoRAs as one: requests of the same set go to a replica that holds them."""
        return "+".join(sorted(lora.name for lora in self.loras))

    @model_validator(mode="after")
    def _each_lora_once(self) -> "Painting":
        names = [lora.name for lora in self.loras]
        for name in names:
            if names.count(name) > 1:
                raise InvalidParameter(f"loras: {name} is there {names.count(name)} times", param="loras")
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
    """Pictures of what a text says."""

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """What the picture shows."""
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 1
    """Pictures to paint, each by a seed of its own: `seed`, `seed` + 1, and so on."""
