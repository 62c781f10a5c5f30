"""Settings of LoRAs."""

from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.levers import CheckpointSettings, Offload
from services.weights.loras.files import UnsafeLora, check_lora
from services.weights.request import MAX_LORAS, LoraName
from services.weights.weights import RepositoryFile


class LoraRepository(RepositoryFile):
    """A LoRA on the Hugging Face hub that requests may use by the name given here."""

    name: LoraName
    file: Annotated[str, Field(pattern=r"\.safetensors$")]
    """Path of the file in the repository."""


class FixedLora(BaseModel):
    """A LoRA that is loaded at startup and active for every request: exactly one of `file` and `name`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, BeforeValidator(str)] | None = None
    """Path of a safetensors file; a relative path starts at `lora_dir`."""
    name: LoraName | None = None
    """Name from `lora_repositories`, or of a file in `lora_dir`, as in a request."""
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _exactly_one(self) -> "FixedLora":
        if (self.file is None) == (self.name is None):
            raise ValueError(f"give exactly one of file and name, got {'both' if self.file else 'none'}")
        return self

    @property
    def expert_name(self) -> str:
        """The network that uses it; empty for all networks of the model."""
        return ""

    @property
    def label(self) -> str:
        """Its name in job records. For an absolute path only the last part, to keep the operator's folders private."""
        if self.file is None:
            return str(self.name)
        return Path(self.file).name if Path(self.file).is_absolute() else self.file


Fixed = TypeVar("Fixed", bound=FixedLora)


class LoraSettings(CheckpointSettings, Generic[Fixed]):
    """Settings of a replica whose transformers can be adapted by LoRAs."""

    offload: Offload = "none"
    """What to keep in CPU memory."""
    compile: bool = False
    """Compile the blocks on first use and again for each new number of LoRAs; each compilation takes minutes."""
    loras: tuple[Fixed, ...] = ()
    """LoRAs that are active for every request, besides those of the request."""
    lora_dir: Path | None = None
    """Folder whose safetensors files requests may use as LoRAs, by default REELGRAPH_HOME/loras. If it is set, it must
    contain all files of `loras`."""
    lora_repositories: tuple[LoraRepository, ...] = ()
    """LoRAs on the hub that requests may also use. Each is downloaded on first use; its licence is checked when the
    replica starts."""
    max_loras: Annotated[int, Field(ge=1, le=64)] = MAX_LORAS
    """Maximum number of LoRAs in memory and in one request. The least recently used LoRA is evicted first."""
    max_lora_rank: Annotated[int, Field(ge=1, le=4096)] = 128
    """Maximum rank of a LoRA. With `compile`, each LoRA takes the memory of this rank."""
    max_lora_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    """Maximum size of a LoRA file, in bytes."""

    @model_validator(mode="after")
    def _check_loras(self) -> "LoraSettings[Fixed]":
        names = [known.name for known in self.lora_repositories]
        if len(set(names)) < len(names):
            raise ValueError(f"lora_repositories: names must be unique, got {names}")
        for lora in self.loras:
            if lora.file is not None:
                try:
                    check_lora(lora.file, self.path_of(lora.file), self.lora_dir)
                except UnsafeLora as error:
                    raise ValueError(f"loras: {error}") from error
        return self

    def path_of(self, file: str) -> Path:
        """Return the path of a file of `loras`, with symbolic links resolved."""
        return ((self.lora_dir or Path()) / file).resolve()


AnySettings = TypeVar("AnySettings", bound=LoraSettings[Any])


def place_loras(settings: AnySettings, home: Path) -> AnySettings:
    """Return the settings with `lora_dir`; if it is not set, create `home/loras` and use it."""
    if settings.lora_dir is not None:
        return settings
    folder = home / "loras"
    folder.mkdir(mode=0o700, exist_ok=True)
    return settings.model_copy(update={"lora_dir": folder})
