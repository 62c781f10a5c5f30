"""Alphas in the metadata of LoRA files, as peft and diffusers write them.

Sources: the classes LoraConfig and AdaLoraConfig of huggingface/peft, and diffusers' `lora_adapter_metadata`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from services.weights.loras.errors import LoraError

ENTRY = "lora_adapter_metadata"
"""Name of the metadata in which diffusers writes the configuration of peft, as JSON."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""Names of the two files of an adapter that peft saves."""
CONFIG_MAX_BYTES = 1_000_000
PREFIX = "transformer."
"""Beginning of the names of the transformer's values."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the product of two matrices is scaled, where the file has no alpha tensors."""

    alpha: float | None = None
    """None: the rank."""
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])
    """End of a module's name → its alpha."""
    by_root: bool = False
    """Whether alpha is divided by the square root of the rank (rsLoRA)."""

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of a module's change."""
        own = next((alpha for name, alpha in self.alphas.items() if f".{module}".endswith(f".{name}")), self.alpha)
        alpha = rank if own is None else own
        return alpha / math.sqrt(rank) if self.by_root else alpha / rank


def read_scaling(path: Path, metadata: Mapping[str, str]) -> Scaling:
    """Return the scaling that the metadata of a file states, or the configuration that peft saved beside it.

    Raises:
        LoraError: the configuration cannot be understood.
        OSError: it cannot be read.
    """
    if ENTRY in metadata:
        return _parse_config(_parse_object(ENTRY, metadata[ENTRY]))
    beside = path.with_name(CONFIG)
    if path.name == WEIGHTS and beside.is_file():
        if beside.stat().st_size > CONFIG_MAX_BYTES:
            raise LoraError(f"has {CONFIG} of more than {CONFIG_MAX_BYTES} bytes")
        return _parse_config(_parse_object(CONFIG, beside.read_text(errors="replace")))
    return Scaling()


def _parse_object(name: str, text: str) -> dict[str, object]:
    try:
        stated: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoraError(f"has {name} that is not JSON") from error
    if not isinstance(stated, dict):
        raise LoraError(f"has {name} that is not a JSON object")
    return {key.removeprefix(PREFIX): value for key, value in cast("dict[str, object]", stated).items()}


def _parse_config(config: Mapping[str, object]) -> Scaling:
    if config.get("use_dora"):
        raise LoraError("is a DoRA, which is not supported")
    patterns: object = config.get("alpha_pattern") or dict[str, object]()
    if not isinstance(patterns, dict):
        raise LoraError("has an alpha_pattern that is not a JSON object")
    alpha = config.get("lora_alpha")
    return Scaling(
        None if alpha is None else _parse_alpha("lora_alpha", alpha),
        {
            _parse_pattern(name): _parse_alpha(f"alpha_pattern of {name}"[:80], value)
            for name, value in cast("dict[str, object]", patterns).items()
        },
        bool(config.get("use_rslora")),
    )


def _parse_alpha(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not abs(value) < 1e9:
        raise LoraError(f"has a {name} that is not a number below 1e9")
    return float(value)


def _parse_pattern(pattern: str) -> str:
    """Return the end of a module's name from a pattern of peft; other regular expressions are refused."""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not name.replace("_", "").replace(".", "").isalnum():
        raise LoraError("has an alpha_pattern with regular expressions, which is not supported")
    return name
