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
    """Precision; `auto` is the dtype of the checkpoint."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation; by default transformers chooses."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_RUN)] = MAX_RUN
    """Maximum number of frames in a request; each takes 256 tokens of the checkpoint's context."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    """Maximum length of an answer, in tokens."""

    @property
    def limits(self) -> Mapping[str, int]:
        return {"max_new_tokens": self.max_new_tokens}
