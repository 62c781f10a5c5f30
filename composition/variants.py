"""The names of what a job can give out."""

VIDEO = "video"
"""The variant that a job makes where nothing else is said."""

FRAME = "frame"
"""The name of a still that is a frame of the output."""


IMAGE = "image"
"""The variant that is a picture."""
