"""Which weights a model is loaded from, as a configuration names them: a repository at a commit, or a local folder."""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

RepositoryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
"""`owner/name`."""
LicenceName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Weights(BaseModel):
    """Exactly one of `repository` (with `revision`) and `path`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: RepositoryName | None = None
    """A model repository, `owner/name`."""
    revision: str | None = None
    """The commit of the repository, 40 hexadecimal digits: a branch moves, and then two replicas differ."""
    hub: Literal["huggingface", "modelscope"] = "huggingface"
    """Whose repository it is."""
    endpoint: Annotated[str, Field(pattern="^https?://")] | None = None
    """Address of a mirror; by default the hub's own, or what HF_ENDPOINT and MODELSCOPE_ENDPOINT say."""
    path: Path | None = None
    """A folder in the layout that `from_pretrained` reads, e.g. a clone of a repository made with git-lfs. In a
    configuration file a relative one begins at the folder of that file."""
    files: tuple[str, ...] = ()
    """Patterns (`*` matches `/` too) of the files that are needed; by default all. Repositories often hold the same
    weights several times over: FLUX.1-dev is half as large without its `flux1-dev.safetensors`."""
    offline: bool = False
    """Never ask the hub; only what has been downloaded before."""
    licence: LicenceName | None = None
    """The name of the licence under which the operator uses weights whose terms the project does not know. A repository
    of unknown terms is not fetched without it, unless `reel models pull` was told that they are accepted."""

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
        """What the job record calls it. Of a path only the last part: where it lies is the operator's affair."""
        return f"path:{self.path.name}" if self.path else self.repository or ""

    def needs(self, file: str) -> bool:
        """Whether `files` names this one."""
        return not self.files or any(fnmatchcase(file, pattern) for pattern in self.files)


class RepositoryFile(BaseModel):
    """One file of a repository on the Hugging Face hub, at a commit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: RepositoryName
    """`owner/name`."""
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    """A commit: a branch moves, and then two replicas differ."""
    file: str
    """Its path in the repository."""
    licence: LicenceName | None = None
    """As in `Weights`."""

    @property
    def weights(self) -> Weights:
        """The repository, with no other file needed."""
        named = {"repository": self.repository, "revision": self.revision, "licence": self.licence}
        return Weights.model_validate({**named, "files": (self.file,)})
