"""Choosing the video track that a player would show."""

from collections import Counter
from collections.abc import Collection
from typing import cast

from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

COVERS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Tracks that are no video: cover art and the pictures of chapters."""
PARTS = Disposition.dependent | Disposition.still_image | Disposition.multilayer
"""Tracks that are shown only if there is no other: layers of another track, and stills beside sound."""


def list_videos(container: InputContainer) -> list[VideoStream]:
    """Return the video tracks without cover art."""
    return [stream for stream in container.streams.video if not stream.disposition & COVERS]


def choose_video(container: InputContainer, auxiliary: Collection[int]) -> VideoStream | None:
    """Return the video track to show: the default one, else the largest, else the first.

    Tracks of one frame, such as previews, are chosen last. Their packets are counted if the header has no number of
    frames; the file must then be opened again to be read from its beginning.

    Args:
        container: a file that was just opened.
        auxiliary: `id` of the tracks that belong to another one, which are chosen only if there is no other.
    """
    videos = list_videos(container)
    if len(videos) < 2:
        return videos[0] if videos else None
    counts = _count_frames(container, videos)
    return max(videos, key=lambda stream: (stream.id not in auxiliary, counts[stream.index] > 1, *_rank_track(stream)))


def _rank_track(stream: VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    is_known = cast("object", context) is not None
    is_default = bool(stream.disposition & Disposition.default)
    return not stream.disposition & PARTS, is_default, context.width * context.height if is_known else 0


def _count_frames(container: InputContainer, videos: list[VideoStream]) -> Counter[int]:
    """Return the number of frames of each track by its index; of more than one frame possibly two."""
    counts = Counter({stream.index: stream.frames for stream in videos})
    unknown = {stream.index for stream in videos if not stream.frames}
    try:
        for packet in container.demux(videos) if unknown else ():
            if packet.stream_index in unknown and packet.size:
                counts[packet.stream_index] += 1
                if counts[packet.stream_index] > 1:
                    unknown.discard(packet.stream_index)
            if not unknown:
                break
    except FFmpegError:  # the index of frames tells what is wrong
        pass
    return counts
