"""Requests to InternVL and their limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.limits import MAX_TEXT

MAX_NEW_TOKENS = 4_096


class DescribeRequest(BaseModel):
    """Answer a question about images, or about text only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = "Describe this video in detail."
    """The question."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 256
    """Maximum length of the answer, in tokens."""
