"""The tables: jobs and what belongs to them, uploads, API keys."""

import time
from typing import Any

from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

TERMINAL = ("completed", "failed")
"""The states in which a job stays."""


class Table(DeclarativeBase):
    """All tables of the project."""

    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012 - SQLAlchemy's own idiom


class Job(Table):
    """A request for a video, and everything that is known of it."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    params: Mapped[dict[str, Any]]
    """The request, whole, with the seed drawn; media fields hold file ids."""
    media: Mapped[dict[str, Any]]
    """Media field → key in the artifact store."""
    main: Mapped[str | None]
    """The variant that the job is for, where it is not `video`."""
    parent: Mapped[str | None] = mapped_column(index=True)
    """The job that this one is a part of."""
    created_at: Mapped[float] = mapped_column(index=True)
    """Unix seconds, as all times here."""
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
    """Frames per second as a fraction, `25` or `24000/1001`."""
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
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
    def ended(self) -> bool:
        return self.status in TERMINAL


class Segment(Table):
    """A whole, playable piece of one of a job's videos. Index -1 is the initialisation segment, without frames."""

    __tablename__ = "video_segments"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    variant: Mapped[str] = mapped_column(primary_key=True)
    """Which of the job's videos."""
    index: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str]
    first: Mapped[int]
    frames: Mapped[int]


class Still(Table):
    """A frame of a job's output, kept without loss, or a picture of how it was made."""

    __tablename__ = "stills"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True)
    """Of the frame, from 0."""
    name: Mapped[str] = mapped_column(primary_key=True)
    """`frame`, or what else it shows."""
    key: Mapped[str]
    scores: Mapped[dict[str, Any] | None]
    """How far the frame is from what it was to be, where that was measured."""


class Stage(Table):
    """One service's part in a job, when it was done."""

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
    """What the watchers of a job are told, in order."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]


class File(Table):
    """An upload that decodes."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[float]
    filename: Mapped[str]
    """As the user called it; never part of a path."""
    purpose: Mapped[str]
    bytes: Mapped[int]
    key: Mapped[str]
    """Where it lies in the artifact store."""
    facts: Mapped[dict[str, Any]]


class ApiKey(Table):
    """A key that opens the front door. Only its SHA-256 is kept: it has 256 random bits, so that needs no salt."""

    __tablename__ = "api_keys"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    created_at: Mapped[float]


class Deployed(Table):
    """A model or a graph that an application hosts, written when the application is built."""

    __tablename__ = "deployed"

    application: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """A model's id, or a graph's name."""
    position: Mapped[int]
    """In its application, from 0."""
    kind: Mapped[str]
    """A kind of model, or `graph`."""
    facts: Mapped[dict[str, Any]]
    """What requests must know of it: its defaults, limits, …"""
    built_at: Mapped[float] = mapped_column(default=time.time)
