"""Opening a media file with the library that decodes it."""

from composition.media.cost import estimate_reading
from composition.media.decoding.frame_file import FrameFile
from composition.media.decoding.headers import Limits, read_head, read_header
from composition.media.decoding.media_file import MediaFile
from composition.media.decoding.mp4_tracks import read_auxiliary_tracks
from composition.media.decoding.picture_cost import measure_source
from composition.media.decoding.picture_file import PictureFile
from composition.media.decoding.picture_readers import open_picture_reader

LIBRARY_CODECS = {"heif": "hevc", "avif": "av1", "webp": "webp"}
"""Library → FFmpeg's name of the codec that it decodes."""


def open_frames(source: str | bytes, limits: Limits) -> FrameFile:
    """Open a video or a picture.

    Args:
        source: path or content of the file.
        limits: limits on the file.

    Raises:
        UndecodableMedia: the file is no video or picture, is truncated, or has no frame that can be decoded.
        LimitExceeded: the header or the packets exceed a limit.
    """
    header = read_header(read_head(source))
    if header.container is not None:
        limits.check_container(header.container)
    library = header.library
    if header.is_sequence and isinstance(source, str) and read_auxiliary_tracks(source):
        library = "avif"  # FFmpeg does not join the tracks of colours and alpha
    if library is None:
        return MediaFile(source, limits)
    limits.check_video_codec(LIBRARY_CODECS[library])
    limits.require(estimate_reading(measure_source(source)))
    return PictureFile(open_picture_reader(source, library, limits), limits)
