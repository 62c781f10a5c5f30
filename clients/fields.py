"""What may be asked of `POST /v1/videos`. The same names in HTTP, in Python and (with dashes) on the command line.

The server checks values and knows the defaults; the text beside a field is its help on the command line.
"""

from os import PathLike
from typing import Annotated, Literal, TypeAlias, TypedDict

Media: TypeAlias = str | PathLike[str]
"""A file id or a `data:` URL as str; a path object is a file on this disk, sent along with the request."""


class SamplingFields(TypedDict, total=False):
    """How to sample. None is the same as not given: the server's configuration decides."""

    prompt: Annotated[str | None, "What the video shows."]
    negative_prompt: Annotated[str | None, "What it should not show."]
    num_frames: Annotated[int | None, "Frames to make: a multiple of 4 plus 1."]
    max_area: Annotated[int | None, "The most pixels a frame may have; the aspect is kept."]
    size: Annotated[str | None, "WIDTHxHEIGHT in pixels, instead of max-area."]
    steps: Annotated[int | None, "Denoising steps."]
    shift: Annotated[float | None, "Flow shift of the noise schedule."]
    solver: Annotated[Literal["unipc", "dpm++"] | None, "Sampler."]
    guidance_scale: Annotated[float | None, "Classifier-free guidance; 1 or less turns it off."]
    guidance_scale_2: Annotated[float | None, "Guidance of the low-noise expert, where there are two."]
    seed: Annotated[int | None, "The same seed makes the same video; -1 draws one."]


class ContinuationFields(SamplingFields, total=False):
    """What V2V takes beside them. Without a prompt, the given video is described to get one."""

    describe_prompt: Annotated[str | None, "How to ask for the description of the given video."]
    num_segments: Annotated[int | None, "How many sampled frames the description looks at."]
    join: Annotated[bool | None, "Whether the result begins with the given video."]


class VideoFields(ContinuationFields, total=False):
    """Every field, media among them."""

    input_video: Media | None
    input_reference: Media | None
    image: Media | None
    last_image: Media | None


class ListOptions(TypedDict, total=False):
    """Which part of a list."""

    limit: int | None
    """Of one page, 1 to 100; 20 where it is not given."""
    after: str | None
    """The id behind which the list begins."""
    order: Literal["asc", "desc"] | None
    """By the time of creation: the newest first where it is not given."""
