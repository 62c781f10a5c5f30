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

from composition.media.decoding.archive import Archive, Folder, Shelf, naming
from composition.media.decoding.footage import Footage
from composition.media.decoding.headers import Limits, is_gif, is_zip, not_a_picture, read_header
from composition.media.decoding.pixels import RUN_BYTES
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels

LOOK = 64
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
        return is_zip(file.read(LOOK))


class Album:
    """The pictures of a zip archive or a folder, in natural order of their paths. They may differ in size.

    Raises:
        UndecodableMedia: it is broken, or a picture in it is none, or cannot be decoded; it is named.
        LimitExceeded: there are too many, or one is beyond a limit; it is named.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.max_pixels * PIXEL_BYTES + EXTRA_BYTES
        self._shelf: Shelf = (Folder if Path(path).is_dir() else Archive)(path, limits.max_frames)
        self._names = self._shelf.names
        self._held: tuple[int, Pixels] | None = None
        if not self._names:
            raise UndecodableMedia("there are no pictures in it")
        for position in range(self.frames):
            self._check(position)
        with self._opened(0) as first:
            self._size = first.paint.size
            self._facts = {**first.facts(), "kind": "pictures", "frames": self.frames}

    @property
    def frames(self) -> int:
        """How many pictures there are."""
        return len(self._names)

    def facts(self) -> dict[str, Any]:
        """`composition.media.decode.MediaFacts` as JSON: the size and codec are those of the first picture."""
        return self._facts

    def run(self, start: int, most: int) -> Pixels | None:
        """Pictures of one size from `start` on, up to `most` of them; None behind the last one."""
        most = min(most, self.frames - start)
        if most < 1:
            return None
        first = self._pixels(start)
        most = min(most, max(1, RUN_BYTES // first.nbytes))
        run = np.empty((most, *first.shape), np.uint8)
        for count in range(most):
            try:
                pixels = self._pixels(start + count)
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
            pixels = self._pixels(position)
            if pixels.shape[:2] != (height, width):
                pixels = np.asarray(VideoFrame.from_ndarray(pixels, "rgb24").reformat(width, height).to_ndarray())
            sampled[place] = pixels
        return sampled

    def last(self) -> Pixels:
        """The last picture, a run of one."""
        return self._pixels(self.frames - 1)[None]

    def verify(self, positions: list[int]) -> None:
        """Decode the pictures at `positions` and the last one."""
        for position in (*positions, self.frames - 1):
            self._pixels(position)

    def _check(self, position: int) -> None:
        """See by its first bytes whether it is a picture that may be used."""
        name = self._names[position]
        with naming(name):
            if self._shelf.size(name) > self._most:
                raise LimitExceeded(f"it has {self._shelf.size(name)} bytes; {self._bound}")
            with self._shelf.open(name) as file:
                head = file.read(LOOK)
            header = read_header(head)
            if header.picture is None and not is_gif(head):
                raise UndecodableMedia(not_a_picture(head))
            if header.size is not None:
                self._limits.check_size(*header.size)
        if header.picture is None:  # only its whole says whether a GIF moves
            self._pixels(position)

    @property
    def _bound(self) -> str:
        return f"the limit is {self._most}, which {self._limits.max_pixels} pixels (max_pixels) take at most"

    def _pixels(self, position: int) -> Pixels:
        """(height, width, 3) uint8 RGB, as it is shown. The one that was asked for last is held."""
        if self._held is None or self._held[0] != position:
            self._held = None
            with self._opened(position) as picture:
                pixels = np.array(picture.paint.rgb(picture.last()), order="C")  # a copy, which holds no frame
            del picture
            gc.collect(1)  # a frame of PyAV and its side data hold each other
            self._held = position, pixels
        return self._held[1]

    @contextmanager
    def _opened(self, position: int) -> Generator[Footage]:
        """One picture, open. Errors name it."""
        name = self._names[position]
        with naming(name):
            try:
                with closing(Footage(self._read(name), self._limits)) as picture:
                    if not picture.still:
                        raise UndecodableMedia("it is animated; send each of its frames as a picture")
                    yield picture
            except FFmpegError as error:
                raise UndecodableMedia(f"it cannot be decoded: {error.strerror}") from error

    def _read(self, name: str) -> bytes:
        """Raises LimitExceeded as soon as there is more than a picture can have."""
        with self._shelf.open(name) as file:
            chunks: list[bytes] = []
            left = self._most
            while chunk := file.read(1 << 20):
                chunks.append(chunk)
                left -= len(chunk)
                if left < 0:
                    raise LimitExceeded(f"it unpacks to more bytes than it may; {self._bound}")
        return b"".join(chunks)
