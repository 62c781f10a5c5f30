"""The database tables: jobs with their segments, stills, stages and events; uploads; API keys; deployed models."""

import time
from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TERMINAL = ("completed", "failed")
"""The final states of a job."""
COPIED_FRAMES = "frames/"
"""Beginning of the keys of files that are copies of frames which a job has made, and no uploads."""


class Table(DeclarativeBase):
    """Base class of the tables."""

    type_annotation_map = {dict[str, Any]: JSON, list[str]: JSON(none_as_null=True)}  # noqa: RUF012 - SQLAlchemy's own idiom


class Job(Table):
    """A stored request for a video, with its progress and results."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    params: Mapped[dict[str, Any]]
    """All fields of the request, with the seed drawn; media fields hold file ids."""
    media: Mapped[dict[str, Any]]
    """Name of a media field → key in the artifact store."""
    main: Mapped[str | None]
    """The main variant of the results; None for `video`."""
    parent: Mapped[str | None] = mapped_column(index=True)
    """Id of the job that created this one."""
    created_at: Mapped[float] = mapped_column(index=True)
    """Unix seconds, like all times in these tables."""
    status: Mapped[str] = mapped_column(default="queued", index=True)
    started_at: Mapped[float | None]
    completed_at: Mapped[float | None]
    stage: Mapped[str | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    """0 to 1."""
    frames_done: Mapped[int] = mapped_column(default=0)
    frames_total: Mapped[int | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    rate: Mapped[str | None]
    """Frames per second, as a fraction such as `25` or `24000/1001`."""
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    videos: Mapped[dict[str, Any] | None]
    """Variant → the facts of the written video (`VideoFacts`); None before any is complete."""
    results: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Variant → key in the artifact store."""
    degraded: Mapped[str | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float] = mapped_column(default=0.0)
    last_event: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    deleted: Mapped[bool] = mapped_column(default=False)

    @property
    def has_ended(self) -> bool:
        return self.status in TERMINAL


class Segment(Table):
    """A playable piece of one of a job's videos. Index -1 is the initialisation segment, which has no frames."""

    __tablename__ = "video_segments"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    variant: Mapped[str] = mapped_column(primary_key=True)
    """Name of the video among the job's results."""
    index: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    first: Mapped[int]
    frames: Mapped[int]
    signals: Mapped[dict[str, Any] | None] = mapped_column(default=None)
    """What was measured of its frames (`composition/media/signals.py`), and of which kinds faults are looked for
    (index -1); None if the segment was written by an older version."""


class Still(Table):
    """A losslessly stored frame of a job's output, or a debug picture of that frame."""

    __tablename__ = "stills"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    """Index of the frame, from 0."""
    name: Mapped[str] = mapped_column(primary_key=True)
    """`frame`, or the name of the debug picture."""
    key: Mapped[str]
    scores: Mapped[dict[str, Any] | None]
    """Quality scores of the frame; None if it was not measured."""
    times: Mapped[list[str] | None]
    """When the frame appears and disappears, in seconds as fractions; None if the frame rate is constant."""


class Stage(Table):
    """A completed stage of a job: one model's part in it."""

    __tablename__ = "stages"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    model: Mapped[str]
    source: Mapped[str]
    revision: Mapped[str]
    replica: Mapped[str]
    seconds: Mapped[float]


class Event(Table):
    """An event of a job's event stream, numbered from 1."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]


class File(Table):
    """An upload that was checked and can be decoded."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[float]
    filename: Mapped[str]
    """The user's name for the file; never part of a path."""
    purpose: Mapped[str]
    bytes: Mapped[int]
    key: Mapped[str]
    """Key in the artifact store."""
    facts: Mapped[dict[str, Any]]


class ApiKey(Table):
    """An API key. Only its SHA-256 is stored; with 256 random bits, a key needs no salt."""

    __tablename__ = "api_keys"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    created_at: Mapped[float]


class Deployed(Table):
    """A model or graph that an application hosts. Written when the application is built."""

    __tablename__ = "deployed"

    application: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """Id of the model, or name of the graph."""
    position: Mapped[int]
    """Index in the application's configuration, from 0."""
    kind: Mapped[str]
    """The kind of model, or `graph`."""
    facts: Mapped[dict[str, Any]]
    """The properties that requests depend on: defaults, limits and so on."""
    built_at: Mapped[float] = mapped_column(default=time.time)
