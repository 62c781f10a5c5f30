"""Facts of a checkpoint in a local folder, from its JSON files and the headers of its weights, without torch."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.checkpoint import Checkpoint, Component, Library
from services.errors import ConfigError
from services.json_files import read_json_object
from services.weights.headers import Header, read_headers

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Data type of safetensors → torch's name of it."""
INDEX, CONFIG = "model_index.json", "config.json"


def describe_folder(folder: Path, variant: str | None = None) -> Checkpoint:
    """Return the facts of a checkpoint. Its roles and defaults are empty.

    Args:
        folder: folder in the layout of `save_pretrained`: a pipeline with its index, or a single network.
        variant: variant of the weight files.

    Raises:
        ConfigError: it has no network with a configuration, or a file of its weights is broken.
    """
    index = read_json_object(folder / INDEX)
    found = list_networks(index) or name_single(read_json_object(folder / CONFIG))
    parts = {name: folder / name for name in found if (folder / name / CONFIG).is_file()}
    if not parts:
        raise ConfigError(f"weights: {folder.name} has no network with a {CONFIG}", param="weights")
    components: list[Component] = []
    for name, place in parts.items():
        library, network = found[name]
        config = read_json_object(place / CONFIG)
        components.append(describe_network(name, library, network, config, read_headers(place, variant)))
    return Checkpoint(
        repository=f"path:{folder.name}",
        revision="",
        pipeline={name: value for name, value in index.items() if not isinstance(value, list)},
        components=tuple(components),
        files=(),
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        roles=(),
        defaults={},
    )


def list_networks(index: Mapping[str, Any]) -> dict[str, tuple[Library, str]]:
    """Return the members of a pipeline's index that may be networks → library and class."""
    found: dict[str, tuple[Library, str]] = {}
    for name, value in index.items():
        match value:
            case ["diffusers", str(network)]:
                found[name] = "diffusers", network
            case ["transformers", str(network)]:
                found[name] = "transformers", network
            case _:
                pass
    return found


def name_single(config: Mapping[str, Any]) -> dict[str, tuple[Library, str]]:
    """Return the network of a repository without an index, from its configuration; empty if it names no class."""
    match config.get("architectures"):
        case [str(name), *_]:
            return {"": ("transformers", name)}
        case _:
            return {}


def describe_network(
    name: str, library: Library, network: str, config: Mapping[str, Any], headers: Mapping[str, Header]
) -> Component:
    """Return the facts of a network from its configuration file and the headers of its weights."""
    sizes = Counter[str]()
    for header in headers.values():
        sizes[header.dtype] += math.prod(header.shape)
    dtype = DTYPES.get(sizes.most_common(1)[0][0], "float32") if sizes else "float32"
    return Component(
        name=name,
        library=library,
        class_name=network,
        config={key: value for key, value in config.items() if not key.startswith("_")},
        parameters=sizes.total(),
        dtype=dtype,
    )
