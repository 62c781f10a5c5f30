"""The items of a stream between deployments: frames and metadata.

The set of types is closed, and all items are immutable. A failed stream raises an exception, and a consumer cancels a
stream by closing it; there is no end marker and no error item.
"""

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.limits import MAX_RUN

Pixels: TypeAlias = NDArray[np.uint8]
"""(count, height, width, 3) uint8 RGB, C-contiguous. Never modify it in place: arrays from Ray are read-only."""

JsonValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A run of 1 to 16 consecutive frames. A picture is a run of one frame.

    Raises:
        ValueError: `pixels` is not (1–16, height, width, 3) uint8 in C order, `first` is negative, `rate` is not
            positive, or `times` are not `count` + 1 increasing values.
    """

    pixels: Pixels
    first: int = 0
    """Index of `pixels[0]` in the stream, from 0."""
    rate: Fraction = Fraction(1)
    """Frames per second; the average if the frames have `times`."""
    times: tuple[Fraction, ...] | None = None
    """Time at which each frame appears, and at which the last one disappears, in seconds from the beginning of the
    stream: `count` + 1 values. None if the rate is constant."""

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
        self._check_times()

    def _check_times(self) -> None:
        times = self.times
        if times is None:
            return
        if len(times) != self.count + 1 or times[0] < 0 or any(a >= b for a, b in pairwise(times)):
            raise ValueError(f"Frames.times must be {self.count + 1} increasing values from 0 on, got {times}")

    def list_times(self) -> tuple[Fraction, ...]:
        """Return the time in seconds at which each frame appears and the last one disappears: `count` + 1 values."""
        return self.times or tuple(index / self.rate for index in range(self.first, self.stop + 1))

    def split(self) -> Iterator["Frames"]:
        """Yield each frame as a run of one."""
        for index in range(self.count):
            times = self.times and self.times[index : index + 2]
            yield Frames(self.pixels[index : index + 1], self.first + index, self.rate, times)

    @property
    def count(self) -> int:
        return self.pixels.shape[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.pixels.shape[2]

    @property
    def stop(self) -> int:
        """Index after the last frame."""
        return self.first + self.count


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """`done` of `total` steps of a stage are finished. `preview` is one small frame of the unfinished result."""

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
    """A value chosen during the run (`seed`, `size`, `caption`). A job records it and passes it to a resumed run."""

    name: str
    value: JsonValue


@dataclass(frozen=True, slots=True)
class StageDone:
    """A service has finished its stage."""

    stage: str
    model: str
    """Name of the service, e.g. `wan`."""
    source: str
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str
    replica: str
    """Name of the replica, and its devices."""
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
    """Duration over which the frames are spread evenly; None keeps the duration of the clip."""
    blend: bool = False
    """Whether to interpolate linearly between frames; otherwise the earlier frame is repeated."""
    crossfade: int = 0
    """Length of the cross-fade from the previous clip, in frames of the video."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A reference to the frames of a file, at this position in the stream; the consumer decodes the file.

    Decoding a file is faster than processing its frames, and Ray streams have no back-pressure, so the frames of a file
    are referenced, not sent.
    """

    url: str
    fit: Fit | None = None
    """How to fit the clip; None uses it unchanged."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A reference to the sound of a file, which is added to the main video; a file without sound adds nothing."""

    url: str
    start: Fraction = Fraction(0)
    """When it begins in the video, in seconds: the time at which the first frame of its own video is shown, or, if the
    file has only sound, its first sample."""
    seconds: Fraction | None = None
    """Maximum duration in seconds; None plays it to its end."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Frames of a secondary output: another video, or a still picture."""

    name: str
    """Name of the variant, e.g. `hd` or `image`."""
    frames: Frames
    still: bool = False
    """Whether it is a picture; a picture is complete with this item."""
    alpha: Frames | None = None
    """The opacity of a transparent picture: one grey frame of the same size, 255 where it is opaque."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Quality scores of a frame, sent just before the frame. None means not measured."""

    frame: int
    """Index of the frame in the stream."""
    edge_loss: float | None = None
    gram_loss: float | None = None
    temporal_loss: float | None = None
    lpips_to_init: float | None = None
    lpips_to_prev: float | None = None
    seed: int | None = None
    """Seed of the picture that was scored."""
    tries: int = 1
    """Number of pictures made for the frame so far, each with another seed."""
    passed: bool | None = None
    """Whether no score is above its maximum; None without maxima, or if a score that has one was not measured."""
    kept: bool = True
    """Whether the frame follows; otherwise it was refused, and is made again."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A debug picture of how a frame was generated, sent just before the frame."""

    frame: int
    """Index of the frame in the stream."""
    name: str
    """Content of the picture, e.g. `soft_edges`."""
    picture: Frames


Features: TypeAlias = NDArray[np.float32]
"""Float32 array; the field's docstring gives its shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face detected in a picture. Coordinates are fractions of the picture's width and height.

    Raises:
        ValueError: an array has the wrong shape or type, or values that are not finite.
    """

    embedding: Features
    """(512,), unit length: the identity of the person."""
    keypoints: Features
    """(5, 2), x and y of the left eye, the right eye, the nose, and the left and right corners of the mouth. Left and
    right are those of the picture with the face upright."""
    box: Features
    """(4,): left, top, right, bottom."""
    crop: Frames | None = None
    """The face, upright, 112 x 112 pixels."""
    size: tuple[int, int] | None = None
    """Width and height of the picture, in pixels; None if unknown. The proportions of the face follow from it."""

    def __post_init__(self) -> None:
        for name, shape in (("embedding", (512,)), ("keypoints", (5, 2)), ("box", (4,))):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"Face.{name} must be {shape} finite float32, got {array.shape} {array.dtype}")


Item: TypeAlias = Frames | Progress | Text | Fact | StageDone | Clip | Sound | Result | Scores | Sketch | Face

Stream: TypeAlias = AsyncGenerator[Item]
"""The output of a model while it runs. Closing the stream stops the work."""
