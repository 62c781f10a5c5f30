"""Descriptions of request fields and of commands, for the command line and the docs."""

from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeAlias

Media: TypeAlias = str | PathLike[str]
"""A file id or a `data:` URL as a string; a path object is a local file, which is sent with the request."""


@dataclass(frozen=True)
class About:
    """Description of a field."""

    text: str
    limits: str = ""
    """Minimum and maximum, as text."""
    default: str = ""
    """Default, as text; empty if there is none."""
    media: Literal["", "video", "image", "pictures", "sound"] = ""
    """Kind of media, if it is a media field."""
    needed: bool = False
    """Whether the field is required."""


@dataclass(frozen=True)
class Command:
    """A command that runs a job."""

    name: str
    """Name on the command line."""
    model: str
    """Default graph or model."""
    fields: type
    """TypedDict of the request's fields."""
    result: Literal["video", "image"]
    """Kind of the default result."""
    graph: bool
    """Whether it is a graph, in which models have roles; else it is a model alone."""
    text: str
    """Help text."""
    without: frozenset[str] = frozenset()
    """Fields without an option."""
