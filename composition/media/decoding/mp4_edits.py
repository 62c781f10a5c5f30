"""Counting the edits of an MP4 or MOV file. FFmpeg compares each of them with each frame when it opens the file."""

import struct

from composition.media.decoding.mp4_index import find_boxes, read_index
from services.errors import LimitExceeded

MAX_EDITS = 4096
"""Maximum number of edits in a file: cuts that players make when they show it. Cameras and editors write a few."""


def check_edits(path: str) -> None:
    """Raise LimitExceeded if an MP4 file has too many edits. Files of other formats have none."""
    lists = find_boxes(read_index(path), b"trak", b"edts", b"elst")
    edits = sum(struct.unpack_from(">I", each, 4)[0] for each in lists if len(each) >= 8)
    if edits > MAX_EDITS:
        raise LimitExceeded(f"the edit lists of the video have {edits} entries; the limit is {MAX_EDITS}")
