"""What decoding a media file costs, estimated from its headers before it is decoded.

Memory is estimated from above: it is reserved, and is the limit of the decoder process. Processor time is estimated
from below: what is refused by it would take at least as long. The constants were measured on files of each codec,
with `RLIMIT_DATA` just large enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20
HEADER_BYTES = 128 * MIB
"""Memory that a decoder may take before the cost of its file is known: for headers and the index of frames."""
LIBRARY_BYTES = 80 * MIB
"""Memory that the libraries of a decoder take. All decoders share most of it, so it is not reserved for each."""
FIXED_BYTES = 64 * MIB
"""Memory of a decoder beside its frames: stacks of threads, tables, and what the allocator keeps."""
INDEX_BYTES = 320
"""Memory of a frame, a picture or a packet in an index."""
KEPT_BYTES = 32 * MIB
"""Size of the frames that are kept while a video is examined."""
RUN_BYTES = 64 * MIB
"""Size of the pixels of a run of frames, if it has more than one."""
RUN_FRAMES = 16
WORK_BYTES, DEEP_WORK_BYTES = 8, 28
"""Memory for converting a pixel to RGB, for frames of up to 8 bits and for those that are deeper or have alpha."""
EXTRA_FRAMES = 6
"""Frames that a decoder holds beside its references: one for each thread, and those between it and the converter."""
REFERENCES = {"h264": 16, "hevc": 16, "av1": 10, "vp9": 10}
"""Largest number of frames that a codec refers to."""
FEW_REFERENCES = 4
"""The same of all other codecs."""
LEVEL_PIXELS = {"h264": 178_257_920, "hevc": 213_909_504}
"""Pixels that a decoder of the highest level stores (H.264, table A-1; H.265, section A.4.2): large frames are few."""
LEAST_REFERENCES = 6
FRAME_NS = {"h264": 0.5, "hevc": 0.4, "av1": 0.15, "vp9": 0.15}
"""Least processor time of a pixel of a frame that changes nothing, in nanoseconds."""
LEAST_FRAME_NS = 0.1
"""The same of all other codecs."""
ANIMATION_NS = 1.0
"""Processor time of a pixel of a frame of an animation, which is composed from those before it."""
PICTURE_NS = 25.0
"""Usual processor time of a pixel of a picture."""
SCAN_NS = 0.07
"""Least processor time of a pixel in a scan of a progressive JPEG."""
START_S = 0.02
"""Usual processor time of opening any file."""


@dataclass(frozen=True)
class Cost:
    """What decoding a file costs, by its headers."""

    memory_bytes: int
    """Memory beside the libraries that all decoders share, at most."""
    cpu_s: float
    """Processor time of the longest operation in seconds, at least."""
    reason: str = ""
    """What causes it, for messages, e.g. `60,000 frames of 4096x2304 from a keyframe to the last one`."""


SOUND_COST = Cost(FIXED_BYTES + 64 * MIB, START_S, "a file of sound")
"""What decoding a file that holds only sound costs."""


TASK_BYTES = 256 * MIB
"""Memory of a task that decodes nothing, such as reading the marks of a file."""
HASHED_BYTES = 512 * MIB
"""Memory that c2pa-rs takes beside, at most: it reads a file that it checks in pieces of 256 MiB, two at a time."""


UNHASHED_TASKS = frozenset({"labels"})
"""Tasks that read only a small part of their file at a time."""


def estimate_task(task: str, file_bytes: int) -> Cost:
    """Return what a task costs that decodes nothing, by the size of its file.

    Args:
        task: a key of `composition.media.decoding.worker.TASKS`.
        file_bytes: the size.
    """
    hashed = 0 if task in UNHASHED_TASKS else min(file_bytes, HASHED_BYTES)
    return Cost(TASK_BYTES + hashed, START_S, f"reading the marks of {file_bytes} bytes")


@dataclass(frozen=True)
class FrameForm:
    """The form of the frames of a file, by its headers."""

    width: int
    height: int
    bits: int
    """Bits that a decoded pixel takes."""
    codec: str
    """FFmpeg's name of the codec."""
    has_alpha: bool = False
    is_deep: bool = False
    """Whether a sample has more than 8 bits."""
    references: int | None = None
    """Frames that the decoder keeps, if the stream says so."""

    @property
    def pixels(self) -> int:
        """Pixels of a frame, in whole blocks of 64."""
        return -(-self.width // 64) * -(-self.height // 64) * 64 * 64

    @property
    def frame_bytes(self) -> int:
        """Size of a decoded frame."""
        return self.pixels * self.bits // 8

    @property
    def rgb_bytes(self) -> int:
        """Size of a frame of 8-bit RGB."""
        return self.width * self.height * 3

    @property
    def work_bytes(self) -> int:
        """Memory for converting one frame."""
        return self.pixels * (DEEP_WORK_BYTES if self.has_alpha or self.is_deep else WORK_BYTES)

    @property
    def run_bytes(self) -> int:
        """Size of the pixels of a run."""
        return max(self.rgb_bytes, min(RUN_BYTES, RUN_FRAMES * self.rgb_bytes))


def estimate_video(form: FrameForm, frames: int, decoded: int) -> Cost:
    """Return the cost of a video or an animation.

    Args:
        form: of its frames.
        frames: number of frames.
        decoded: number of frames that are decoded to verify it, see `count_decoded`.
    """
    kept = min(KEPT_BYTES, frames * form.frame_bytes) + form.frame_bytes
    memory = FIXED_BYTES + INDEX_BYTES * frames + kept + form.work_bytes + form.run_bytes
    memory += form.frame_bytes * (min(count_references(form), frames) + EXTRA_FRAMES)
    cpu_s = START_S + decoded * form.width * form.height * FRAME_NS.get(form.codec, LEAST_FRAME_NS) / 1e9
    return Cost(memory, cpu_s, f"{decoded:,} frames of {form.width}x{form.height} must be decoded to check it")


def count_references(form: FrameForm) -> int:
    """Return the largest number of frames that the decoder of a video stores."""
    most = REFERENCES.get(form.codec, FEW_REFERENCES)
    if form.references is not None:
        return min(form.references, most)
    if form.codec not in LEVEL_PIXELS:
        return most
    return min(most, max(LEAST_REFERENCES, LEVEL_PIXELS[form.codec] // max(form.pixels, 1)))


def count_decoded(positions: Sequence[int], keyframes: Sequence[int]) -> int:
    """Return the number of frames that are decoded to read the frames at some positions in order.

    Args:
        positions: of the frames, ascending.
        keyframes: positions at which decoding can begin, ascending; without any it begins at the first frame.
    """
    starts = list(keyframes) or [0]
    count, current, place = 0, -1, 0
    for position in positions:
        while place + 1 < len(starts) and starts[place + 1] <= position:
            place += 1
        begin = max(current + 1, starts[place])
        count += max(0, position + 1 - begin)
        current = max(current, position)
    return count


def estimate_reading(size: int) -> Cost:
    """Return the cost of reading the headers of a file of `size` bytes that is read as a whole."""
    return Cost(FIXED_BYTES + 3 * size, START_S, f"a file of {size} bytes")


def estimate_picture(form: FrameForm, size: int) -> Cost:
    """Return the cost of a picture.

    Args:
        form: of the picture.
        size: of the file, in bytes, which is read as a whole.
    """
    memory = FIXED_BYTES + 3 * size + form.frame_bytes + form.work_bytes + form.rgb_bytes
    return Cost(memory, START_S + form.pixels * PICTURE_NS / 1e9, f"a picture of {form.width}x{form.height}")


def estimate_animation(form: FrameForm, size: int, frames: int) -> Cost:
    """Return the cost of an animation that is read by another library than FFmpeg.

    Args:
        form: of its frames.
        size: of the file, in bytes.
        frames: number of frames, all of which are composed to read the last one.
    """
    one = estimate_picture(form, size)
    cpu_s = START_S + frames * form.pixels * ANIMATION_NS / 1e9
    memory = one.memory_bytes + 2 * form.frame_bytes + INDEX_BYTES * frames
    return Cost(memory, cpu_s, f"{frames:,} frames of {form.width}x{form.height}")
