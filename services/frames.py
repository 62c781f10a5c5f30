"""The items of a stream between deployments: frames, and what is sent beside them.

The set is closed, and each item is frozen. A stream ends by ending, fails by raising and is cancelled by being closed;
there is no end marker and no error item.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.limits import MAX_RUN

Pixels: TypeAlias = NDArray[np.uint8]
"""(count, height, width, 3) uint8 RGB, C-contiguous. Read-only where it came through Ray: never write in place."""

JsonValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A run of 1 to 16 consecutive frames. A picture is a run of one.

    Raises:
        ValueError: when `pixels` is not (1–16, height, width, 3) uint8 in C order, or `first` is negative.
    """

    pixels: Pixels
    first: int = 0
    """Index of `pixels[0]` in its stream, from 0."""
    rate: Fraction = Fraction(1)
    """Frames per second."""

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"Frames.pixels must be (n, h, w, 3) uint8, got {shape} {self.pixels.dtype}")
        if not 1 <= shape[0] <= MAX_RUN or shape[1] < 1 or shape[2] < 1:
            raise ValueError(f"Frames.pixels must hold 1 to {MAX_RUN} frames that are not empty, got {shape}")
        if not self.pixels.flags.c_contiguous:
            raise ValueError("Frames.pixels must be C-contiguous")
        if self.first < 0 or self.rate <= 0:
            raise ValueError(f"Frames.first must be >= 0 and rate > 0, got {self.first} and {self.rate}")

    @property
    def count(self) -> int:
        return self.pixels.shape[0]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.pixels.shape[2]

    @property
    def stop(self) -> int:
        """Index of the frame after the last one."""
        return self.first + self.count


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """`done` of `total` steps of a stage are finished. `preview` is one small frame of what is being made."""

    stage: str
    done: int
    total: int
    preview: Frames | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of generated text."""

    stage: str
    piece: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A decision made during the run (`seed`, `size`, `caption`). A job records it and passes it to a resumed run."""

    name: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class StageDone:
    """A service has finished its stage."""

    stage: str
    model: str
    """The service, e.g. `wan`."""
    source: str
    """Where its weights come from: a repository, or `path:FOLDER`."""
    revision: str
    replica: str
    """Which replica did it, and on which devices."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """How a clip is resized, retimed and cross-faded when it is joined into a longer video."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    rate: Fraction
    """Frames per second of the video."""
    seconds: Fraction | None = None
    """Duration: its frames are spread evenly over it. None keeps its own duration."""
    blend: bool = False
    """Interpolate linearly between its frames; else repeat the earlier one."""
    crossfade: int = 0
    """Frames of the video in which it cross-fades from the clip before it."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a file at this place in the stream; the consumer reads them from the file.

    A file decodes faster than anything downstream can process it, and Ray streams have no back-pressure, so the frames
    of a file are referenced, not sent.
    """

    url: str
    fit: Fit | None = None
    """None where it is taken as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Frames of a secondary output: another video, or a still picture."""

    name: str
    """The variant's, e.g. `hd` or `image`."""
    frames: Frames
    still: bool = False
    """Whether it is a picture, which is whole with this."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Quality scores of a frame, sent just before it. None means not measured."""

    frame: int
    """Index of the frame in its stream."""
    edge_loss: float | None = None
    gram_loss: float | None = None
    temporal_loss: float | None = None
    lpips_to_init: float | None = None
    lpips_to_prev: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A debug picture of how a frame was made, sent just before it."""

    frame: int
    """Index of the frame in its stream."""
    name: str
    """What it shows, e.g. `soft_edges`."""
    picture: Frames


Features: TypeAlias = NDArray[np.float32]
"""Float32, in the shape that stands beside it."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face that was found in a picture. Places are fractions of that picture's width and height.

    Raises:
        ValueError: when an array has another shape, or numbers that are not finite.
    """

    embedding: Features
    """(512,), of length 1: whose face it is."""
    keypoints: Features
    """(5, 2), x and y of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen."""
    box: Features
    """(4,): left, top, right, bottom."""
    crop: Frames | None = None
    """The face, upright, 112 x 112 pixels."""

    def __post_init__(self) -> None:
        for name, shape in (("embedding", (512,)), ("keypoints", (5, 2)), ("box", (4,))):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"Face.{name} must be {shape} finite float32, got {array.shape} {array.dtype}")


Item: TypeAlias = Frames | Progress | Text | Fact | StageDone | Clip | Result | Scores | Sketch | Face

Stream: TypeAlias = AsyncGenerator[Item]
"""What a model makes, while it makes it. Closing it stops the work."""
