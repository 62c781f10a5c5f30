"""Names that the marks use."""

from typing import Literal

MarkedFormat = Literal["mp4", "png", "jpeg", "webp", "gif"]
"""Formats that can be marked."""
SYSTEM = "reelgraph"
"""Name of the system that makes the files."""
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""Beginning of IPTC's digital source types."""
GENERATED = SOURCE_TYPES + "trainedAlgorithmicMedia"
COMPOSITE = SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
DETECTED = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"})
"""Last parts of the digital source types of generated content. Some programs write them with https."""
GENERATION = "org.reelgraph.generation"
"""Label of our own assertion in a C2PA manifest, with models, LoRAs, seed, stages, inputs and prompts."""


def is_generated(source_type: str | None) -> bool:
    """Whether a digital source type is one of generated content."""
    return (source_type or "").rpartition("/")[2] in DETECTED
