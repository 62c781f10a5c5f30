"""The configuration of a file of weights on a web server, by address and SHA-256."""

from pathlib import PurePosixPath
from typing import Annotated, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.weights.weights import LicenceName

SUFFIXES = (".bin", ".pt", ".pth", ".safetensors")
"""Extensions of files that can be read; pickles are read only if they contain nothing but tensors."""


class WebFile(BaseModel):
    """A file of weights on a web server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(max_length=2000)]
    """Address of the file, http or https; it ends in the name of the file. A query is used, but not logged."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the file, 64 hexadecimal digits."""
    licence: LicenceName | None = None
    """Name of the licence, stated by the operator, as for a repository."""
    offline: bool = False
    """Whether to use only a downloaded file, without network access."""

    revision: ClassVar[None] = None

    @field_validator("url")
    @classmethod
    def _names_a_file(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not contain a user name or password")
        name = _take_name(url)
        if not name.isprintable() or "\\" in name or PurePosixPath(name).name != name or len(name.encode()) > 200:
            raise ValueError(f"must end in the name of a file of at most 200 bytes, got {name!r}")
        if PurePosixPath(name).suffix not in SUFFIXES:
            raise ValueError(f"must end in {', '.join(SUFFIXES)}, got {name!r}")
        return url

    @property
    def name(self) -> str:
        """Name of the file; its extension decides how it is read."""
        return _take_name(self.url)

    @property
    def source(self) -> str:
        """Name of the weights in job records: the name of the file, because an address may be private."""
        return self.name

    @property
    def address(self) -> str:
        """The address without its query, by which the licence is looked up."""
        return shorten(self.url)


def shorten(url: str) -> str:
    """Return an address for messages: without user name, password, query and fragment, which may contain secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _take_name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])
