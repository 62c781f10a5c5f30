"""Fields of requests that name LoRA files."""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Annotated, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from services.errors import InvalidParameter
from services.limits import parse_json_object

MAX_LORAS = 8
"""LoRAs in one request."""


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

    @property
    def expert_name(self) -> str:
        """The network that uses it; empty for all networks of the model."""
        return ""


AnyLora = TypeVar("AnyLora", bound=Lora)


def parse_lora(entry: object) -> object:
    """Parse one LoRA of a form field or a command line: JSON, or `name` or `name:weight` instead of an object."""
    if not isinstance(entry, str):
        return entry
    if entry.lstrip().startswith("{"):
        return parse_json_object(entry)
    name, colon, weight = entry.rpartition(":")
    return {"name": name, "weight": weight} if colon else {"name": entry}


def parse_loras(value: object, parse_entry: Callable[[object], object] = parse_lora) -> object:
    """Parse the LoRAs of a form field or a command line. Raises ValueError if there are more than MAX_LORAS."""
    if isinstance(value, str):
        value = parse_json_object(value) if value.lstrip()[:1] in ("[", "{") else [value]
    entries = cast("list[object]", value if isinstance(value, list | tuple) else [value])
    if len(entries) > MAX_LORAS:
        raise ValueError(f"should have at most {MAX_LORAS} items, not {len(entries)}")
    return [parse_entry(entry) for entry in entries]


def check_once(loras: tuple[AnyLora, ...]) -> tuple[AnyLora, ...]:
    """Return the LoRAs. Raises InvalidParameter if a network would use one of them twice."""
    for name in [lora.name for lora in loras]:
        experts = [lora.expert_name for lora in loras if lora.name == name]
        if len(experts) > 1 and ("" in experts or len(set(experts)) < len(experts)):
            raise InvalidParameter(f"loras: {name} must be listed once, got {len(experts)} times", param="loras")
    return loras


LoraList = Annotated[
    tuple[Lora, ...],
    Field(max_length=MAX_LORAS),
    BeforeValidator(parse_loras, json_schema_input_type=Annotated[tuple[Lora | str, ...], Field(max_length=MAX_LORAS)]),
    AfterValidator(check_once),
]
"""The LoRAs of a request to a model with one transformer."""


def name_lora_set(loras: Iterable[Lora]) -> str:
    """Return the sorted names of LoRAs, joined by `+`: requests with equal sets are routed to the same replica."""
    return "+".join(sorted({lora.name for lora in loras}))
