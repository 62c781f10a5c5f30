"""Ordered pictures in a zip archive or a folder, each read and decoded when it is requested.

Runs only in decoder processes (`composition.media.decoding.worker`). Memory holds one picture at a time.
"""

import gc
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from composition.media.cost import FIXED_BYTES, START_S, Cost
from composition.media.decoding.archive import Archive, Folder, PictureSource, name_errors
from composition.media.decoding.frame_file import FrameFile
from composition.media.decoding.headers import Limits, explain_not_a_picture, is_zip, read_header
from composition.media.decoding.opening import open_frames
from composition.media.decoding.pixels import RUN_BYTES, drop_opaque
from composition.media.decoding.sampling import VERIFIED_FRAMES
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels

SIGNATURE_BYTES = 64
"""Bytes of each picture that are read when an album is opened."""
PIXEL_BYTES = 8
"""Maximum size of a pixel in a file: four 16-bit values."""
ENTRY_BYTES, ENTRY_MEMORY = 46, 1 << 10
"""Smallest size of a file in the directory of a zip archive, and the memory that it takes when it was read."""
EXTRA_BYTES = 1 << 20
"""Maximum size of a picture file without its pixels: headers, colour profiles."""


def is_album(path: str) -> bool:
    """Whether a path is a folder or a zip archive, which is recognised by its content."""
    if Path(path).is_dir():
        return True
    with Path(path).open("rb") as file:
        return is_zip(file.read(SIGNATURE_BYTES))


class Album:
    """The pictures of a zip archive or a folder, in natural order of their paths. Their sizes may differ.

    Args:
        path: a zip archive or a folder.
        limits: limits on the pictures and their number.

    Raises:
        UndecodableMedia: the archive is damaged, or a file in it is no picture or cannot be decoded. The message names
            that file.
        LimitExceeded: there are too many pictures, or one exceeds a limit. The message names it.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self._limits = limits
        if not Path(path).is_dir():
            limits.check_container("zip")
        self._max_bytes = limits.max_pixels * PIXEL_BYTES + EXTRA_BYTES
        self.cost = Cost(0, 0)
        """What decoding the picture that was opened last costs."""
        self._directory_bytes = 0
        """Memory that the list of pictures takes, if it is large."""
        self._source: PictureSource = (
            Folder(path, limits.max_frames)
            if Path(path).is_dir()
            else Archive(path, limits.max_frames, self._reserve_directory)
        )
        self._names = self._source.names
        self._picture_limits = replace(limits, reserve=self._reserve_picture)
        self._cached: tuple[int, Pixels] | None = None
        if not self._names:
            raise UndecodableMedia("there are no pictures in the archive or folder")
        for position in range(self.count):
            self._check_picture(position)
        with self._open_picture(0) as first:
            self._size = first.converter.size
            self._facts = {**first.describe(), "kind": "pictures", "frames": self.count}

    def _reserve_directory(self, size: int) -> None:
        self._directory_bytes = size // ENTRY_BYTES * ENTRY_MEMORY
        self._limits.require(Cost(FIXED_BYTES + self._directory_bytes, START_S, f"a zip directory of {size} bytes"))

    def _reserve_picture(self, cost: Cost) -> None:
        """Reserve what a picture costs, beside the list of pictures, a run of others, and the one that is cached."""
        self.cost = replace(
            cost,
            memory_bytes=cost.memory_bytes + self._directory_bytes + RUN_BYTES,
            cpu_s=cost.cpu_s * min(self.count, VERIFIED_FRAMES + 1),
        )
        self._limits.reserve(self.cost)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the first picture, in pixels."""
        return self._size

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self._names)

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`, with the first picture's size and codec."""
        return self._facts

    def read_run(self, start: int, most: int) -> Pixels | None:
        """Return up to `most` pictures of one size from `start` on; None past the last one."""
        most = min(most, self.count - start)
        if most < 1:
            return None
        first = self._decode_picture(start)
        most = min(most, max(1, RUN_BYTES // first.nbytes))
        run = np.empty((most, *first.shape), np.uint8)
        for count in range(most):
            try:
                pixels = self._decode_picture(start + count)
            except ReelError:
                if count == 0:
                    raise
                return run[:count]  # the error is raised when the next run is requested
            if pixels.shape != first.shape:
                return run[:count]
            run[count] = pixels
        return run

    def sample(self, positions: list[int]) -> Pixels:
        """Return the pictures at `positions`, resized to the size of the first picture in the album."""
        width, height = self._size
        sampled = np.empty((len(positions), height, width, 3), np.uint8)
        for place, position in enumerate(positions):
            pixels = self._decode_picture(position)
            if pixels.shape[:2] != (height, width):
                frame = VideoFrame.from_ndarray(pixels, "rgb24")
                pixels = np.asarray(frame.reformat(width, height, threads=1).to_ndarray())
            sampled[place] = pixels
        return sampled

    def read_last(self) -> Pixels:
        """Return the last picture as a run of one."""
        return self._decode_picture(self.count - 1)[None]

    def read_straight(self) -> Pixels:
        """Return the last picture, not composited, (1, height, width, 4), or (1, height, width, 3) if it is opaque."""
        with self._open_picture(self.count - 1) as picture:
            return drop_opaque(picture.converter.convert_straight(picture.read_last()))

    def verify(self, positions: list[int]) -> None:
        """Decode the pictures at `positions` and the last one."""
        for position in (*positions, self.count - 1):
            self._decode_picture(position)

    def _check_picture(self, position: int) -> None:
        """Check the format and the size of a picture by its first bytes. Raises UndecodableMedia, LimitExceeded."""
        name = self._names[position]
        with name_errors(name):
            if self._source.size(name) > self._max_bytes:
                raise LimitExceeded(f"the file has {self._source.size(name)} bytes; {self._limit_text}")
            with self._source.open(name) as file:
                head = file.read(SIGNATURE_BYTES)
            header = read_header(head)
            if not header.may_be_picture:
                raise UndecodableMedia(explain_not_a_picture(head))
            if header.size is not None:
                self._limits.check_size(*header.size)
        if header.picture_format is None and header.library != "heif":
            self._decode_picture(position)  # only then it is known whether it is animated

    @property
    def _limit_text(self) -> str:
        return f"the limit is {self._max_bytes}, the most that {self._limits.max_pixels} pixels (max_pixels) can take"

    def _decode_picture(self, position: int) -> Pixels:
        """Return a picture as displayed, (height, width, 3) uint8 RGB. The last one is cached."""
        if self._cached is None or self._cached[0] != position:
            self._cached = None
            with self._open_picture(position) as picture:
                pixels = np.array(
                    picture.converter.convert(picture.read_last()), order="C"
                )  # a copy, which holds no frame
            del picture
            gc.collect(1)  # a frame of PyAV and its side data refer to each other
            self._cached = position, pixels
        return self._cached[1]

    @contextmanager
    def _open_picture(self, position: int) -> Generator[FrameFile]:
        """Open a picture inside the `with` block. Errors name it."""
        name = self._names[position]
        with name_errors(name):
            try:
                with closing(open_frames(self._read(name), self._picture_limits)) as picture:
                    if not picture.is_still:
                        raise UndecodableMedia("the picture is animated; send each of its frames as a picture")
                    yield picture
            except FFmpegError as error:
                raise UndecodableMedia(f"the picture cannot be decoded: {error.strerror}") from error

    def _read(self, name: str) -> bytes:
        """Return the bytes of a picture. Raises LimitExceeded as soon as they exceed the limit."""
        with self._source.open(name) as file:
            chunks: list[bytes] = []
            left = self._max_bytes
            while chunk := file.read(1 << 20):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise LimitExceeded(f"the file has more bytes than the limit; {self._limit_text}")
        return b"".join(chunks)
