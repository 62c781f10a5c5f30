"""Branching: a job that begins at a frame of an older job of the same graph."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from services.limits import parse_json_object

FIELD = "branch_from"
"""The request field that names the older job and its frame."""
MAX_FRAME = 2**31 - 1


class Branch(BaseModel):
    """A frame of an older job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    video: str
    """The older job's id."""
    frame: Annotated[int, Field(ge=0, le=MAX_FRAME)]
    """Index of its frame, from 0."""


class BranchFields(BaseModel):
    """The fields that must be parsed before those of the older job can be merged in."""

    branch_from: Annotated[Branch, BeforeValidator(parse_json_object)]


@dataclass(frozen=True)
class Origin:
    """The older job and the frame at which the new one begins."""

    frame: int
    params: Mapping[str, Any]
    """The older job's request."""
    media: Collection[str]
    """The media fields that the older job has a file for."""


@dataclass(frozen=True)
class Inheritance:
    """What a job takes from the older one."""

    fields: Mapping[str, Any]
    """All fields of the request except media."""
    files: Collection[str] = ()
    """Media fields that take the older job's file."""
    frames: Mapping[str, int] = field(default_factory=dict[str, int])
    """Media field → index of the older job's frame that it takes."""


class Inherit(Protocol):
    """Decides what a job takes from the older one."""

    def __call__(self, origin: Origin, fields: Mapping[str, Any], media: Collection[str]) -> Inheritance:
        """Merge the older job's request into the new one.

        Args:
            origin: the older job.
            fields: the new request's fields, without media; those of `BranchFields` are parsed.
            media: the media fields that the new request sets.
        """
        ...


@dataclass(frozen=True)
class Branching:
    """How the jobs of a graph continue older ones."""

    fields: type[BranchFields]
    inherit: Inherit
