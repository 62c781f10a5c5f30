"""Where a model's weights are: a Hugging Face repository at a revision, a local folder, or the project's miniature."""

import fcntl
import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, cast

from pydantic import BaseModel, ConfigDict, model_validator

from services.errors import ConfigError


class Weights(BaseModel):
    """Exactly one of `repository` (with `revision`), `path` and `miniature`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str | None = None
    """A Hugging Face model repository, `owner/name`."""
    revision: str | None = None
    """The commit of the repository, 40 hexadecimal digits: a branch moves, and then two replicas differ."""
    path: Path | None = None
    """A folder in the layout that `from_pretrained` reads."""
    miniature: str | None = None
    """A form of the project's own tiny checkpoint; it is written on first use."""
    offline: bool = False
    """Never ask the hub; only what has been downloaded before."""

    _COMMIT: ClassVar[re.Pattern[str]] = re.compile("[0-9a-f]{40}")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Weights":
        named = [name for name in ("repository", "path", "miniature") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"give exactly one of repository, path and miniature, got {named or 'none'}")
        if self.repository is not None and not self._COMMIT.fullmatch(self.revision or ""):
            raise ValueError(f"revision: {self.repository} must be pinned to a commit of 40 hexadecimal digits")
        return self

    @property
    def source(self) -> str:
        """What the job record calls it. Of a path only the last part: where it lies is the operator's affair."""
        return self.repository or (f"path:{self.path.name}" if self.path else f"miniature:{self.miniature}")


def resolve(weights: Weights, home: Path, write_miniature: Callable[[str, Path], None]) -> Path:
    """Return the local folder of `weights`, downloading or writing it under `home` where it is not there yet.

    Args:
        weights: what the configuration names.
        home: REELGRAPH_HOME; downloads lie in `home/models`, miniatures in `home/miniatures`.
        write_miniature: the model's own `write(form, folder)`, from its `miniature.py`.

    Raises:
        ConfigError: the folder does not exist, or the repository cannot be had.
    """
    if weights.path is not None:
        if not weights.path.is_dir():
            raise ConfigError(f"weights.path: there is no folder {weights.path}", param="weights.path")
        return weights.path
    if weights.miniature is not None:
        return _miniature(weights.miniature, home / "miniatures", write_miniature)
    return _snapshot(weights, home / "models")


def _snapshot(weights: Weights, cache: Path) -> Path:
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    download = cast("Callable[..., str]", snapshot_download)
    try:
        return Path(
            download(weights.repository, revision=weights.revision, cache_dir=cache, local_files_only=weights.offline)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        where = "not downloaded yet, and offline is set" if weights.offline else "the hub did not give it"
        raise ConfigError(
            f"weights.repository: {weights.repository} at {weights.revision}: {where} ({type(error).__name__})",
            param="weights.repository",
        ) from error


def _miniature(form: str, folder: Path, write: Callable[[str, Path], None]) -> Path:
    """Write the miniature once: several replicas start together, and a half-written folder must never be seen."""
    made_by = Path(write.__code__.co_filename)
    stamp = made_by.read_bytes() + version("diffusers").encode() + version("transformers").encode()
    target = folder / f"{made_by.parent.name}-{form}-{hashlib.sha256(stamp).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            draft = Path(tempfile.mkdtemp(dir=folder, prefix=".draft-"))
            try:
                write(form, draft)
                draft.replace(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target
