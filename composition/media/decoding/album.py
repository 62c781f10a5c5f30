"""Pictures in their order, from a zip archive or a folder: each is read and decoded when it is asked for.

Only a worker process opens files (`composition.media.decoding.worker`). At any time it holds one picture.
"""

import gc
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from composition.media.decoding.archive import Archive, Folder, PictureSource, name_errors
from composition.media.decoding.headers import Limits, explain_not_a_picture, is_gif, is_zip, read_header
from composition.media.decoding.media_file import MediaFile
from composition.media.decoding.pixels import RUN_BYTES
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels

SIGNATURE_BYTES = 64
"""Bytes of each picture that are looked at when an album is opened."""
PIXEL_BYTES = 8
"""The most that a pixel takes in a file: four numbers of 16 bits."""
EXTRA_BYTES = 1 << 20
"""What a file may have beside its pixels: headers, colour profiles."""


def is_album(path: str) -> bool:
    """Whether it is a folder or a zip archive, by its content."""
    if Path(path).is_dir():
        return True
    with Path(path).open("rb") as file:
        return is_zip(file.read(SIGNATURE_BYTES))


class Album:
    """The pictures of a zip archive or a folder, in natural order of their paths. They may differ in size.

    Raises:
        UndecodableMedia: it is broken, or a picture in it is none, or cannot be decoded; it is named.
        LimitExceeded: there are too many, or one is beyond a limit; it is named.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self._limits = limits
        self._max_bytes = limits.max_pixels * PIXEL_BYTES + EXTRA_BYTES
        self._source: PictureSource = (Folder if Path(path).is_dir() else Archive)(path, limits.max_frames)
        self._names = self._source.names
        self._cached: tuple[int, Pixels] | None = None
        if not self._names:
            raise UndecodableMedia("there are no pictures in it")
        for position in range(self.count):
            self._check_picture(position)
        with self._open_picture(0) as first:
            self._size = first.converter.size
            self._facts = {**first.describe(), "kind": "pictures", "frames": self.count}

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self._names)

    def describe(self) -> dict[str, Any]:
        """`composition.media.decode.MediaFacts` as JSON: the size and codec are those of the first picture."""
        return self._facts

    def read_run(self, start: int, most: int) -> Pixels | None:
        """Pictures of one size from `start` on, up to `most` of them; None behind the last one."""
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
                return run[:count]  # those before it are good; it is told when the next run is asked for
            if pixels.shape != first.shape:
                return run[:count]
            run[count] = pixels
        return run

    def sample(self, positions: list[int]) -> Pixels:
        """The pictures at `positions`, all made the size of the first in the album, as the frames of a video are."""
        width, height = self._size
        sampled = np.empty((len(positions), height, width, 3), np.uint8)
        for place, position in enumerate(positions):
            pixels = self._decode_picture(position)
            if pixels.shape[:2] != (height, width):
                pixels = np.asarray(VideoFrame.from_ndarray(pixels, "rgb24").reformat(width, height).to_ndarray())
            sampled[place] = pixels
        return sampled

    def read_last(self) -> Pixels:
        """The last picture, a run of one."""
        return self._decode_picture(self.count - 1)[None]

    def verify(self, positions: list[int]) -> None:
        """Decode the pictures at `positions` and the last one."""
        for position in (*positions, self.count - 1):
            self._decode_picture(position)

    def _check_picture(self, position: int) -> None:
        """See by its first bytes whether it is a picture that may be used."""
        name = self._names[position]
        with name_errors(name):
            if self._source.size(name) > self._max_bytes:
                raise LimitExceeded(f"it has {self._source.size(name)} bytes; {self._limit_text}")
            with self._source.open(name) as file:
                head = file.read(SIGNATURE_BYTES)
            header = read_header(head)
            if header.picture_format is None and not is_gif(head):
                raise UndecodableMedia(explain_not_a_picture(head))
            if header.size is not None:
                self._limits.check_size(*header.size)
        if header.picture_format is None:  # only its whole says whether a GIF moves
            self._decode_picture(position)

    @property
    def _limit_text(self) -> str:
        return f"the limit is {self._max_bytes}, which {self._limits.max_pixels} pixels (max_pixels) take at most"

    def _decode_picture(self, position: int) -> Pixels:
        """(height, width, 3) uint8 RGB, as it is shown. The one that was asked for last is held."""
        if self._cached is None or self._cached[0] != position:
            self._cached = None
            with self._open_picture(position) as picture:
                pixels = np.array(
                    picture.converter.convert(picture.read_last()), order="C"
                )  # a copy, which holds no frame
            del picture
            gc.collect(1)  # a frame of PyAV and its side data hold each other
            self._cached = position, pixels
        return self._cached[1]

    @contextmanager
    def _open_picture(self, position: int) -> Generator[MediaFile]:
        """One picture, open. Errors name it."""
        name = self._names[position]
        with name_errors(name):
            try:
                with closing(MediaFile(self._read(name), self._limits)) as picture:
                    if not picture.is_still:
                        raise UndecodableMedia("it is animated; send each of its frames as a picture")
                    yield picture
            except FFmpegError as error:
                raise UndecodableMedia(f"it cannot be decoded: {error.strerror}") from error

    def _read(self, name: str) -> bytes:
        """Raises LimitExceeded as soon as there is more than a picture can have."""
        with self._source.open(name) as file:
            chunks: list[bytes] = []
            left = self._max_bytes
            while chunk := file.read(1 << 20):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise LimitExceeded(f"it unpacks to more bytes than it may; {self._limit_text}")
        return b"".join(chunks)
