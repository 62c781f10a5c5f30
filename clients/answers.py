"""What the objects of the API have in common, and what helps to read them."""

from base64 import b64decode
from typing import Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")

Status: TypeAlias = Literal["queued", "in_progress", "completed", "failed"]
JsonValue: TypeAlias = str | int | float | bool | None


class Answer(BaseModel):
    """Anything that the API answers."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Ending(Answer):
    """Something that ends, completed or failed."""

    status: Status
    """How it stands."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("completed", "failed")


class Picture(Answer):
    """Something that holds a picture."""

    b64_json: str
    """The picture's file, in base64."""

    @property
    def content(self) -> bytes:
        """The picture's file."""
        return b64decode(self.b64_json)


class JobEvent(Answer):
    """Something that happened to a job."""

    id: int
    """Where in the job's history it stands; reading can begin again behind it."""
