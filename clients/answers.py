"""Base classes of the API's response objects."""

from base64 import b64decode
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]
JsonValue: TypeAlias = str | int | float | bool | None


class Answer(BaseModel):
    """A response object, or an object within one."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Ending(Answer):
    """An object with a status that ends as completed or failed."""

    status: Status
    """Status."""

    @property
    def over(self) -> bool:
        """Whether the status is final."""
        return self.status in ("completed", "failed")


class Picture(Answer):
    """An object with a picture."""

    b64_json: str
    """File of the picture, in base64."""

    @property
    def content(self) -> bytes:
        """File of the picture."""
        return b64decode(self.b64_json)


class JobEvent(Answer):
    """An event of a job."""

    id: int
    """Number of the event within its job, for the argument `after` of `videos.events`."""
