"""The request of V2V."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from composition.graphs.request import MediaRequest
from services.frames import MAX_RUN
from services.limits import MAX_TEXT
from services.wan.request import Sampling, WanRequest


class V2VRequest(MediaRequest, Sampling):
    """Continue a video from its last frame; a description of the video is the default prompt."""

    MEDIA = {"input_video": "video"}  # noqa: RUF012
    REFERENCE = "input_video"

    input_video: str
    """The video to continue. A picture counts as a video of one frame."""
    prompt: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    """What happens in the continuation. By default InternVL describes the video, and the description is the prompt."""
    describe_prompt: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)] = "Describe this video in detail."
    """The question to InternVL, which follows one line `Frame1: …` per frame."""
    num_segments: Annotated[int, Field(ge=1, le=MAX_RUN)] = 8
    """Number of frames that InternVL sees, spread evenly over the video."""
    join: bool = False
    """Return the input and its continuation as one video of the input's size. Every frame of the input keeps its time,
    and the continuation follows at its own rate. What the last frame shows keeps its place and shape: bars of `pad` are
    cut off, what `crop` cut off is filled by repeating edge pixels, and `stretch` is undone."""
    match_colour: bool = True
    """Correct the colours of the continuation, so that mean and spread of each colour channel of its first frame are
    those of the input's last frame, and in part those of the next 8 frames too. `false` leaves them as generated."""

    @classmethod
    def set_duration(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        return {**fields, "num_frames": WanRequest.count_frames(seconds, rate)}
