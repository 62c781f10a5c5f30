"""The LoRA files of a deployment: which names requests may use, and how their files are found and read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from services.errors import ConfigError, InvalidParameter, ModelFailed
from services.limits import check_limit
from services.weights.local import check_licence, resolve
from services.weights.loras.adaptation import Adaptation, Architecture, Target
from services.weights.loras.errors import LoraError
from services.weights.loras.files import UnsafeLora, check_lora, hash_lora
from services.weights.loras.reader import read_lora
from services.weights.loras.settings import LoraRepository, LoraSettings
from services.weights.weights import Weights

PARAM = "loras"
PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}
MODELS: Mapping[Architecture, str] = {"flux": "Flux", "wan": "Wan", "qwen-image": "Qwen-Image"}
"""Architecture → name of the model in messages."""


@dataclass(frozen=True, slots=True)
class FileVersion:
    """A LoRA file as it was at a time."""

    label: str
    """Name of the LoRA in messages and records."""
    path: Path
    stamp: tuple[int, int]
    """Modification time in nanoseconds and size in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was read from a LoRA file."""

    file: FileVersion
    sha256: str
    """SHA-256 of the file, in hex."""
    adaptation: Adaptation


class Library:
    """The LoRA files that requests may name.

    Raises:
        ConfigError: the licence of a repository is not accepted; checked at startup, not at the first request.
    """

    def __init__(self, settings: LoraSettings[Any], home: Path) -> None:
        self._folder = settings.lora_dir
        self._listed = {known.name: known for known in settings.lora_repositories}
        self._max_bytes, self._max_rank = settings.max_lora_bytes, settings.max_lora_rank
        self._home, self._offline = home, settings.weights.offline
        for known in settings.lora_repositories:
            self._check_licence(known)

    def check(self, name: str) -> None:
        """Raise InvalidParameter if the LoRA does not exist, or LimitExceeded if its file is too large."""
        if name not in self._listed:
            self._find_local(name)

    def find(self, name: str) -> FileVersion:
        """Return the file, downloaded if necessary. Raises as `check` does, and ModelFailed if the download fails."""
        known = self._listed.get(name)
        return self.stamp(name, self._find_local(name) if known is None else self._download(known))

    def stamp(self, label: str, path: Path) -> FileVersion:
        """Return a file with its stamp. Raises InvalidParameter if it does not exist, LimitExceeded if it is too large.

        Args:
            label: name of the LoRA in messages.
            path: the file.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise InvalidParameter(f"loras: there is no {label} here", param=PARAM) from error
        check_limit(PARAM, found.st_size, self._max_bytes, f"bytes in {label}")
        return FileVersion(label, path, (found.st_mtime_ns, found.st_size))

    def read(self, file: FileVersion, target: Target) -> Reading:
        """Read a file for a transformer.

        Raises:
            InvalidParameter: it cannot be used as a LoRA of this transformer.
            LimitExceeded: its rank is too large.
        """
        try:
            adaptation = read_lora(file.path, target)
            digest = hash_lora(file.path)
        except LoraError as error:
            raise InvalidParameter(f"loras: {file.label} {error}", param=PARAM) from error
        except (OSError, SafetensorError) as error:
            model = MODELS[target.architecture]
            raise InvalidParameter(f"loras: {file.label} cannot be read as a LoRA of {model}", param=PARAM) from error
        check_limit(PARAM, adaptation.rank, self._max_rank, f"ranks in {file.label}")
        return Reading(file, digest, adaptation)

    def _find_local(self, name: str) -> Path:
        wanted = PurePosixPath(name)
        folder, file = self._folder, name if wanted.suffix in PICKLES else f"{name}.safetensors"
        if folder is None:
            raise InvalidParameter(f"loras: there is no {name} here", param=PARAM)
        path = (folder / file).resolve()
        if ".." in wanted.parts:  # even if it resolves inside the folder: each file has one name
            path = Path(file)
        try:
            check_lora(name, path, folder)
        except UnsafeLora as error:
            raise InvalidParameter(f"loras: {error}", param=PARAM) from error
        if not path.is_file():
            raise InvalidParameter(f"loras: there is no {name} here", param=PARAM)
        self.stamp(name, path)
        return path

    def _check_licence(self, known: LoraRepository) -> None:
        try:
            check_licence(self._weights(known), self._home)
        except ConfigError as error:
            raise ConfigError(f"lora_repositories: {known.name}: {error.message}", param="lora_repositories") from error

    def _weights(self, known: LoraRepository) -> Weights:
        return known.weights.model_copy(update={"offline": self._offline})

    def _download(self, known: LoraRepository) -> Path:
        try:
            path = resolve(self._weights(known), self._home) / known.file
        except ConfigError as error:
            raise ModelFailed(f"loras: {known.name}: {error.message}", param=PARAM) from error
        if not path.is_file():
            raise ModelFailed(f"loras: {known.name}: {known.file} is not in {known.repository}", param=PARAM)
        return path
