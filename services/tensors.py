"""Reading of tensor files."""

from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from services.errors import ConfigError


def read_weights(file: Path, param: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or .pth file by name. Raises ConfigError with `param` if it is unreadable."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, LookupError, EOFError, ValueError) as error:
        raise ConfigError(f"{param}: {file} cannot be read ({type(error).__name__})", param=param) from error
    if not isinstance(state, dict):
        raise ConfigError(f"{param}: {file} has no weights by name", param=param)
    return cast("dict[str, Tensor]", state)
