"""Compares the files of a checkpoint with its networks before they are loaded: names and shapes of all tensors.

Libraries fill a missing tensor with random values and only log it.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from services.errors import ConfigError
from services.weights.headers import Header, compare, read_headers
from services.weights.networks import list_shapes, list_tied, rename_tensors

_INDEX = TypeAdapter(dict[str, object])
PICKLES = ("diffusion_pytorch_model", "pytorch_model")
"""Names of pickled weight files of diffusers and of transformers, without their endings."""


def check_pipeline(folder: Path, variant: str | None = None) -> None:
    """Check all networks that a pipeline's index names.

    Args:
        folder: folder of a pipeline, with `model_index.json`.
        variant: variant of the weight files.

    Raises:
        ConfigError: a tensor is missing or has another shape, or a file is broken; the message has the tensor's name.
        OSError: the index or a configuration cannot be read.
        ValueError: one of them is not a JSON object.
    """
    index = _INDEX.validate_json((folder / "model_index.json").read_bytes())
    for name, value in index.items():
        for library in ("diffusers", "transformers"):
            network = find_network(library, value)
            if network is not None:
                check_network(folder / name, network, variant)


def find_network(library: str, value: object) -> type[nn.Module] | None:
    """Return the class of a member of a pipeline's index if it is a network of this library."""
    match value:
        case [str(own), str(name)] if own == library:
            found = getattr(importlib.import_module(library), name, None)
            return found if isinstance(found, type) and issubclass(found, nn.Module) else None
        case _:
            return None


def check_network(folder: Path, network: type[nn.Module], variant: str | None = None) -> None:
    """Check one network.

    Args:
        folder: folder of the network, in the layout of its `save_pretrained`.
        network: its class, of diffusers or transformers.
        variant: variant of the weight files.

    Raises:
        ConfigError: as in `check_pipeline`.
        OSError: there is no configuration, or it cannot be read.
        ValueError: it is not JSON.
    """
    found = read_headers(folder, variant) or _read_pickles(folder, variant)
    if found:  # without any file the library's own message is right
        faults = list_faults(_build_saved(folder, network), found)
        if faults:
            more = f"; {len(faults) - 1} more tensors do not fit" if len(faults) > 1 else ""
            raise ConfigError(f"weights: {folder.name}: {faults[0]}{more}", param="weights")


def list_faults(network: nn.Module, found: Mapping[str, Header]) -> list[str]:
    """Return a sentence for each tensor of a network that is missing in its files or has another shape there."""
    own = rename_tensors(network, found)
    headers = {own[name]: header for name, header in found.items()}
    aliases = list_tied(network)
    for alias, name in aliases.items():  # one of the two suffices
        if name not in headers and alias in headers:
            headers[name] = headers[alias]
    return compare({name: shape for name, shape in list_shapes(network).items() if name not in aliases}, headers)


def _build_saved(folder: Path, network: Any) -> nn.Module:
    with torch.device("meta"):
        if network.__module__.startswith("transformers."):
            return network(network.config_class.from_pretrained(folder, local_files_only=True))
        return network.from_config(network.load_config(folder, local_files_only=True))


def _read_pickles(folder: Path, variant: str | None) -> dict[str, Header]:
    """Return the headers of a component's pickled weights; their data are not read."""
    for infix in (f".{variant}", "") if variant else ("",):
        for file in (folder / f"{stem}{infix}.bin" for stem in PICKLES):
            if file.is_file():
                try:
                    tensors = torch.load(file, map_location="meta", weights_only=True)
                except (OSError, UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
                    raise ConfigError(
                        f"weights: {folder.name}/{file.name} cannot be read ({type(error).__name__})", param="weights"
                    ) from error
                return {name: Header(str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    return {}
