"""What V2V is asked for."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from composition.graphs.request import GraphRequest
from services.frames import MAX_RUN
from services.limits import MAX_TEXT
from services.wan.request import Sampling, WanRequest


class V2VRequest(GraphRequest, Sampling):
    """Continue a video: describe it, and go on from its last frame."""

    MEDIA = {"input_video": "video"}  # noqa: RUF012
    REFERENCE = "input_video"
    STAGES = {"describe": 0.1, "denoise": 0.75, "decode": 0.15}  # noqa: RUF012

    input_video: str
    """What to continue. A picture is taken for a video of one frame."""
    prompt: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    """What should happen. Without it InternVL describes the video, and the description is the prompt."""
    describe_prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = "Describe this video in detail."
    """What InternVL is asked, after a line `Frame1: …` for each frame."""
    num_segments: Annotated[int, Field(ge=1, le=MAX_RUN)] = 8
    """How many frames InternVL sees, spread evenly over the video."""
    join: bool = False
    """Give the input and its continuation in one video, at the input's size and rate."""

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        return {**fields, "num_frames": WanRequest.count_frames(seconds, rate)}
