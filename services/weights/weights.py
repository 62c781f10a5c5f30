"""The configuration of a model's weights: a repository at a commit, or a local folder."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

RepositoryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
"""`owner/name`."""
LicenceName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Weights(BaseModel):
    """The weights of a model: exactly one of `repository` (with `revision`) and `path`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: RepositoryName | None = None
    """A model repository, `owner/name`."""
    revision: str | None = None
    """Commit of the repository, 40 hexadecimal digits. With a branch, replicas could load different commits."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Hub of the repository."""
    endpoint: Annotated[str, Field(pattern="^https?://")] | None = None
    """Address of a mirror; by default HF_ENDPOINT or MODELSCOPE_ENDPOINT, or the address of the hub."""
    path: Path | None = None
    """Folder in the layout of `from_pretrained`, e.g. a clone of a repository made with git-lfs. In a configuration
    file, a relative path starts at the folder of that file."""
    files: tuple[str, ...] = ()
    """Patterns of the required files (`*` also matches `/`); by default all files. Repositories often contain the same
    weights several times: FLUX.1-dev is half as large without its `flux1-dev.safetensors`."""
    offline: bool = False
    """Whether to use only downloaded files, without network access."""
    licence: LicenceName | None = None
    """Name of the licence, stated by the operator, of weights whose licence the project does not know. Without it, such
    weights are downloaded only by `reel models pull --accept-licence`."""

    _COMMIT: ClassVar[re.Pattern[str]] = re.compile("[0-9a-f]{40}")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Weights":
        named = [name for name in ("repository", "path") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(f"give exactly one of repository and path, got {named or 'none'}")
        if self.repository is not None and not self._COMMIT.fullmatch(self.revision or ""):
            raise ValueError(f"revision: {self.repository} must be pinned to a commit of 40 hexadecimal digits")
        return self

    @property
    def source(self) -> str:
        """Name of the weights in job records. For a path only its last part, to keep the operator's folders private."""
        return f"path:{self.path.name}" if self.path else self.repository or ""

    def needs(self, file: str) -> bool:
        """Return whether a file is required, i.e. matches `files`."""
        return not self.files or any(fnmatchcase(file, pattern) for pattern in self.files)


class RepositoryFile(BaseModel):
    """One file of a repository on the Hugging Face hub, at a commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: RepositoryName
    """`owner/name`."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    """Commit of the repository, 40 hexadecimal digits."""
    file: str
    """Path of the file in the repository."""
    licence: LicenceName | None = None
    """Name of the licence, as in `Weights`."""

    @property
    def weights(self) -> Weights:
        """The repository, with this file as the only required file."""
        named = {"repository": self.repository, "revision": self.revision, "licence": self.licence}
        return Weights.model_validate({**named, "files": (self.file,)})
