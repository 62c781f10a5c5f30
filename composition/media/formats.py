"""File formats of results."""

from typing import Literal, TypeAlias

PictureFormat: TypeAlias = Literal["png", "jpeg", "webp"]
"""File format of a picture."""
VideoFormat: TypeAlias = Literal["mp4", "gif", "webp", "png"]
"""File format of a video; `png` is a zip archive of its frames as PNG files."""
ContentFormat: TypeAlias = Literal["mp4", "gif", "webp", "png", "jpeg", "csv", "json"]
"""File format of any result of a job."""
