"""Facts of a checkpoint in a repository, read from its hub: small JSON files, and the headers of its weights.

Only the first bytes of each weight file are transferred.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, cast

from services.checkpoint import Component
from services.errors import ConfigError
from services.weights.downloads import Listing
from services.weights.folder import CONFIG, INDEX, describe_network, list_networks, name_single
from services.weights.headers import LARGEST_HEADER, STEMS, Header, parse_header, read_weight_map
from services.weights.huggingface import HuggingFace
from services.weights.local import find_hub
from services.weights.weights import Weights

GUESS = 100_000
"""Bytes in which most headers fit, from huggingface_hub."""
LARGEST_JSON = 20_000_000
"""Largest JSON file that is read, in bytes; the index of a large network has a few megabytes."""


@dataclass(frozen=True)
class Published:
    """What a hub says of a repository."""

    listing: Listing
    """Path of each required file → size in bytes."""
    headers: Mapping[str, Mapping[str, Header]]
    """Name of each component with safetensors files → tensor → header."""
    components: tuple[Component, ...] = field(default=())
    """Networks of the repository, from its own configuration files."""

    @property
    def disk_bytes(self) -> int:
        return sum(self.listing.values())


class Repository:
    """A repository on a Hugging Face hub. Raises ConfigError if the hub cannot be reached or refuses."""

    def __init__(self, weights: Weights, home: Path, variant: str | None = None) -> None:
        hub = find_hub(weights, home)
        if not isinstance(hub, HuggingFace):
            raise ConfigError(f"{weights.repository}: headers are read from Hugging Face hubs only", param="weights")
        self._hub, self._variant = hub, variant
        hub.reach()
        self._listing = {file: size for file, size in hub.listed().items() if weights.needs(file)}

    def describe(self, known: tuple[Component, ...] = ()) -> Published:
        """Return what the hub says.

        Args:
            known: networks whose headers are read; by default those that the repository's own index names.

        Raises:
            ConfigError: in addition, if a file is missing or broken; the message names it and, if it is known, the
                tensor.
        """
        found = known or self._list_components()
        headers = {part.name: self._read_headers(part.name) for part in found}
        if not known:
            found = tuple(self._describe(part, headers[part.name]) for part in found)
        return Published(self._listing, {name: value for name, value in headers.items() if value}, found)

    def _list_components(self) -> tuple[Component, ...]:
        networks = list_networks(self._read_json(INDEX)) or name_single(self._read_json(CONFIG))
        return tuple(
            Component.model_validate(
                {"name": name, "library": library, "class_name": one, "config": {}, "parameters": 0, "dtype": ""}
            )
            for name, (library, one) in networks.items()
            if str(PurePosixPath(name, CONFIG)) in self._listing
        )

    def _describe(self, part: Component, headers: Mapping[str, Header]) -> Component:
        config = self._read_json(str(PurePosixPath(part.name, CONFIG)))
        return describe_network(part.name, part.library, part.class_name, config, headers)

    def _read_headers(self, name: str) -> dict[str, Header]:
        found: dict[str, Header] = {}
        for file, indexed in self._find_files(name).items():
            headers = self._read_header(file)
            for tensor in indexed:
                if tensor not in headers:
                    raise self._refuse(file, f"{tensor} is missing, which the index says is there")
            found |= {tensor: headers[tensor] for tensor in indexed} if indexed else headers
        return found

    def _find_files(self, name: str) -> dict[str, list[str]]:
        """Return the safetensors files of a component → the tensors that its index says they have."""
        folder = PurePosixPath(name)
        for infix in (f".{self._variant}", "") if self._variant else ("",):
            for stem in STEMS:
                index = str(folder / f"{stem}.safetensors.index{infix}.json")
                if index in self._listing:
                    return self._read_index(index, folder)
                file = str(folder / f"{stem}{infix}.safetensors")
                if file in self._listing:
                    return {file: []}
        return {}

    def _read_index(self, index: str, folder: PurePosixPath) -> dict[str, list[str]]:
        try:
            places = read_weight_map(self._hub.read_bytes(index, 0, self._listing[index]))
        except ValueError as error:
            raise self._refuse(index, "is no index of weights") from error
        files: dict[str, list[str]] = {}
        for tensor, file in places.items():
            files.setdefault(str(folder / PurePosixPath(file).name), []).append(tensor)
        for file, tensors in files.items():
            if file not in self._listing:
                raise self._refuse(file, f"is missing, with {tensors[0]} and {len(tensors) - 1} other tensors")
        return files

    def _read_header(self, file: str) -> dict[str, Header]:
        size = self._listing[file]
        begin = self._hub.read_bytes(file, 0, min(GUESS, size))
        length = int.from_bytes(begin[:8], "little")
        if length > min(LARGEST_HEADER, size - 8):
            raise self._refuse(
                file, f"is no safetensors file: its header should have {length} bytes, and it has {size} in all"
            )
        text = begin[8 : 8 + length]
        if len(text) < length:
            text += self._hub.read_bytes(file, 8 + len(text), length - len(text))
        return parse_header(text, size - 8 - length, Path(file))

    def _read_json(self, file: str) -> Mapping[str, Any]:
        """Return the object in a JSON file; empty if there is no such file."""
        size = self._listing.get(file, 0)
        if size > LARGEST_JSON:
            raise self._refuse(file, f"at most {LARGEST_JSON} bytes are read, and it has {size}")
        try:
            value: object = json.loads(self._hub.read_bytes(file, 0, size)) if size else {}
        except ValueError as error:
            raise self._refuse(file, "is not JSON") from error
        return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}

    def _refuse(self, file: str, what: str) -> ConfigError:
        return ConfigError(f"weights: {file}: {what}", param="weights")
