"""Settings of InternVL."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from services.internvl.request import MAX_NEW_TOKENS
from services.levers import CheckpointSettings
from services.limits import MAX_RUN


class InternVLSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """`auto` is the dtype the checkpoint was saved in."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """By default what transformers chooses."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_RUN)] = MAX_RUN
    """The most frames a question may be about; each takes 256 tokens of the real checkpoint's context."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    """The longest answer that may be asked for."""

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_new_tokens": self.max_new_tokens}
