"""Names of a job's results."""

VIDEO = "video"
"""The default variant."""

FRAME = "frame"
"""Name of a still that is a frame of the output."""


IMAGE = "image"
"""The variant of a job whose main result is a picture."""

THUMBNAIL = "thumbnail"
"""The variant that is a small picture of the main result."""
