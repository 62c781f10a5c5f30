"""Settings of the toy model."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from services.levers import ModelSettings
from services.toy.request import MAX_FRAMES


class ToySettings(ModelSettings):
    """Settings of a replica. There are no weights."""

    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 24

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames}

    @property
    def source(self) -> str:
        return "toy"

    @property
    def revision(self) -> str:
        return ""
