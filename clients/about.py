"""What is known of a field of a request beside its name and its type, and of a command beside its fields."""

from dataclasses import dataclass
from os import PathLike
from typing import Literal, TypeAlias

Media: TypeAlias = str | PathLike[str]
"""A file id or a `data:` URL as str; a path object is a file on this disk, sent along with the request."""


@dataclass(frozen=True)
class About:
    """What a field means."""

    text: str
    limits: str = ""
    """The smallest and the largest value, in words."""
    default: str = ""
    """What holds where it is left out; nothing where that is not said by a value."""
    media: Literal["", "video", "image", "pictures"] = ""
    """What it holds, where that is a medium."""
    needed: bool = False
    """Whether a request cannot do without it."""


@dataclass(frozen=True)
class Command:
    """A command that has a job done."""

    name: str
    """On the command line."""
    model: str
    """The graph, or the name of a model, that is asked where the command line names none."""
    fields: type
    """The TypedDict of the request's fields."""
    result: Literal["video", "image"]
    """What the job makes, if nothing else is asked for."""
    graph: bool
    """Whether models take roles in it; else it is one model alone."""
    text: str
    """What it does."""
