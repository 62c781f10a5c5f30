"""What may be asked of InternVL, within which limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_TEXT

MAX_NEW_TOKENS = 4_096


class DescribeRequest(BaseModel):
    """A question about pictures, or about nothing but itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = "Describe this video in detail."
    """The question."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 256
    """The longest answer, in tokens."""
