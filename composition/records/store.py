"""The state store: jobs and their progress, uploads and API keys in a database (SQLite or PostgreSQL).

A job is stored before any work starts. A runner that works on a job holds a lease with a fencing number, and every
write checks that number: a runner whose lease was lost to another one cannot change the job.

All methods block; async callers run them in a thread.
"""

import hashlib
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from composition.records.database import mark_writing, open_database
from composition.records.events import (
    JobEvent,
    ResultEvent,
    StageEvent,
    StageObject,
    Status,
    StatusEvent,
    VideoError,
)
from composition.records.tables import TERMINAL, ApiKey, Deployed, Event, File, Job, Segment, Stage, Still, Table
from composition.variants import FRAME, VIDEO
from services.errors import Cancelled, Conflict, LeaseLost, NotFound, QueueFull

Order = Literal["asc", "desc"]


Row = TypeVar("Row", Job, File)
MERGED = ("facts", "results", "videos")
"""Columns of Job whose new values are merged into the stored ones."""


@dataclass(frozen=True)
class EventDraft:
    """An event of a job that has no number yet."""

    kind: str
    data: Mapping[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> "EventDraft":
        """Return the draft of an event, without the fields that are not set."""
        return cls(event.KIND, event.model_dump(mode="json", exclude_unset=True))


@dataclass(frozen=True)
class Page:
    """One page of a list."""

    limit: int = 20
    after: str | None = None
    """Id of the last item of the previous page."""
    order: Order = "desc"
    """By creation time."""


@dataclass(frozen=True)
class Lease:
    """The right to work on a job, valid until another runner claims the job."""

    job_id: str
    fence: int


@cache
def share_store(url: str) -> "Store":
    """Return this process's Store for a URL. It is never closed."""
    return Store(url)


def make_id(prefix: str) -> str:
    """Return a random id such as `video_…`."""
    return f"{prefix}_{secrets.token_hex(16)}"


class Store:
    """The state store.

    Args:
        url: SQLAlchemy URL of the database, `sqlite:////path/reelgraph.db` or `postgresql+psycopg://…`.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)
        self._write_engine = mark_writing(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def check_connection(self) -> None:
        """Raise SQLAlchemyError if the database does not answer."""
        with self._read() as session:
            session.execute(select(1))

    def _read(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def _write(self) -> Session:
        return Session(self._write_engine, expire_on_commit=False)

    # Jobs, as clients see them.

    def create_job(self, job: Job, max_queued: int) -> Job:
        """Add a job to the queue. Raises QueueFull if it already holds `max_queued` jobs."""
        with self._write() as session, session.begin():
            self._check_queue(session, max_queued)
            _add_job(session, job)
        return job

    def create_child(self, job: Job) -> Job:
        """Add a child job to the queue and return it. If a job with this id exists, return that one unchanged.

        Child jobs do not count towards the queue limit: their parent was admitted. Raises NotFound if there is no
        parent, and Cancelled if the parent has ended or is being stopped.
        """
        with self._write() as session, session.begin():
            existing = session.get(Job, job.id)
            if existing is not None:
                return existing
            parent = session.get(Job, job.parent, with_for_update=True)
            if parent is None:
                raise NotFound(f"there is no parent video {job.parent!r}")
            if parent.has_ended or parent.cancel_requested:
                raise Cancelled("the parent job was stopped")
            _add_job(session, job)
        return job

    def check_queue(self, max_queued: int) -> None:
        """Raise QueueFull if the queue holds `max_queued` jobs."""
        with self._read() as session:
            self._check_queue(session, max_queued)

    def _check_queue(self, session: Session, max_queued: int) -> None:
        queued = select(func.count()).select_from(Job).where(Job.status == "queued", Job.parent.is_(None))
        waiting = session.scalar(queued) or 0
        if waiting >= max_queued:
            raise QueueFull(
                f"the queue is full: {waiting} jobs are waiting, the limit is {max_queued}; try again later"
            )

    def get_job(self, job_id: str, owner: str | None = None) -> Job:
        """Return a job. Raises NotFound if there is none with this id, or it belongs to another owner."""
        with self._read() as session:
            return _check_visible(session.get(Job, job_id), job_id, owner)

    def list_jobs(self, owner: str, page: Page) -> tuple[list[Job], bool]:
        """Return a page of an owner's jobs, and whether more follow."""
        with self._read() as session:
            query = select(Job).where(Job.owner == owner, Job.deleted.is_(False))
            return _list_page(session, query, Job, owner, page)

    def stop_job(self, job_id: str, owner: str, *, delete_it: bool = False) -> Job:
        """Cancel a job and its children. A queued job ends now; a running one is stopped by its runner.

        Raises NotFound, or Conflict if the job has ended and `delete_it` is not set.
        """
        with self._write() as session, session.begin():
            job = _check_visible(session.get(Job, job_id, with_for_update=True), job_id, owner)
            if not job.has_ended:
                job.cancel_requested = True
                if job.status == "queued":
                    _end_job(session, job, "failed", ("cancelled", "the job was cancelled before it started"))
            elif not delete_it:
                raise Conflict(f"the job is {job.status} and can no longer be cancelled", param="id")
            job.deleted = job.deleted or delete_it
            if delete_it:
                session.execute(update(Job).where(Job.parent == job.id).values(deleted=True))
            _stop_children(session, job)
            return job

    def list_children(self, job_ids: Sequence[str]) -> dict[str, list[Job]]:
        """Return the child jobs of each job, oldest first."""
        found: dict[str, list[Job]] = {job_id: [] for job_id in job_ids}
        with self._read() as session:
            query = select(Job).where(Job.parent.in_(job_ids), Job.deleted.is_(False))
            for job in session.scalars(query.order_by(Job.created_at, Job.id)):
                found[job.parent or ""].append(job)
        return found

    def list_stages(self, job_ids: Sequence[str]) -> dict[str, list[Stage]]:
        """Return the completed stages of each job."""
        found: dict[str, list[Stage]] = {job_id: [] for job_id in job_ids}
        with self._read() as session:
            for stage in session.scalars(select(Stage).where(Stage.job_id.in_(job_ids)).order_by(Stage.id)):
                found[stage.job_id].append(stage)
        return found

    def list_stages_before(self, job_id: str, variant: str | None = None) -> list[StageObject]:
        """Return the stages that a job completed before one of its results, in order; all stages if it has none yet.

        Args:
            job_id: the job.
            variant: the result; None for all stages of the job.
        """
        kinds = (StageEvent.KIND, ResultEvent.KIND)
        found: list[StageObject] = []
        with self._read() as session:
            query = select(Event).where(Event.job_id == job_id, Event.kind.in_(kinds)).order_by(Event.number)
            for event in session.scalars(query):
                if event.kind == StageEvent.KIND:
                    found.append(StageObject.model_validate(event.data))
                elif event.data["variant"] == variant:
                    break
        return found

    def list_segments(self, job_id: str, after: int = -2, variant: str = VIDEO) -> list[Segment]:
        """Return the segments of one of a job's videos whose index is above `after`, in order."""
        with self._read() as session:
            mine = (Segment.job_id == job_id, Segment.variant == variant, Segment.index > after)
            return list(session.scalars(select(Segment).where(*mine).order_by(Segment.index)))

    def list_begun_videos(self, job_id: str) -> list[str]:
        """Return the variants of a job's videos that have a segment, by name."""
        with self._read() as session:
            query = select(Segment.variant).where(Segment.job_id == job_id).distinct()
            return list(session.scalars(query.order_by(Segment.variant)))

    def list_stills(self, job_id: str, *, frames: bool, start: int = 0) -> list[Still]:
        """Return the stills of frame `start` and later frames in order: losslessly stored frames, or other pictures."""
        with self._read() as session:
            wanted = Still.name == FRAME if frames else Still.name != FRAME
            query = select(Still).where(Still.job_id == job_id, wanted, Still.index >= start)
            return list(session.scalars(query.order_by(Still.index, Still.name)))

    def find_still(self, job_id: str, index: int) -> Still | None:
        """Return a losslessly stored frame, or None; index -1 is the last one."""
        with self._read() as session:
            query = select(Still).where(Still.job_id == job_id, Still.name == FRAME).order_by(Still.index.desc())
            return session.scalars((query if index < 0 else query.where(Still.index == index)).limit(1)).first()

    def list_events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """Return the events whose number is above `after`, in order."""
        with self._read() as session:
            query = select(Event).where(Event.job_id == job_id, Event.number > after)
            return list(session.scalars(query.order_by(Event.number).limit(limit)))

    # Jobs, as runners see them.

    def claim_job(self, lease_s: float, only: Sequence[str] | None = None, but: Sequence[str] = ()) -> Job | None:
        """Lease the oldest job that is queued or whose lease has expired. Return None if there is no such job.

        Args:
            lease_s: duration of the lease in seconds.
            only: names of the graphs or models whose jobs are claimed; None for all.
            but: names whose jobs are not claimed.
        """
        now = time.time()
        free = or_(Job.status == "queued", (Job.status == "in_progress") & (Job.lease_until < now))
        query = select(Job).where(free).order_by(Job.created_at, Job.id).limit(1)
        if only is not None:
            query = query.where(Job.model.in_(only))
        if but:
            query = query.where(Job.model.notin_(but))
        with self._write() as session, session.begin():
            job = session.scalars(query.with_for_update(skip_locked=True)).first()
            if job is None:
                return None
            job.fence += 1
            job.attempts += 1
            job.lease_until = now + lease_s
            job.started_at = job.started_at or now
            if job.status == "queued":
                job.status = "in_progress"
                _add_events(session, job, [EventDraft.of(StatusEvent(status="in_progress"))])
            return job

    def renew_lease(self, lease: Lease, lease_s: float) -> bool:
        """Extend a lease, and return whether the job was asked to stop. Raises LeaseLost."""
        with self._write() as session, session.begin():
            job = _lock_job(session, lease)
            job.lease_until = time.time() + lease_s
            return job.cancel_requested

    def is_stop_requested(self, lease: Lease) -> bool:
        """Return whether the job was asked to stop. Raises LeaseLost."""
        with self._read() as session:
            row = session.execute(select(Job.fence, Job.cancel_requested).where(Job.id == lease.job_id)).first()
        if row is None or row.fence != lease.fence:
            raise LeaseLost(f"the lease on {lease.job_id} was lost")
        return row.cancel_requested

    def update_job(
        self, lease: Lease, changes: Mapping[str, Any], events: Iterable[EventDraft], rows: Iterable[Table] = ()
    ) -> None:
        """Update a job, add rows that belong to it and add events, in one transaction. Raises LeaseLost.

        Args:
            lease: the runner's lease.
            changes: column of Job → new value; `facts`, `results` and `videos` are merged into the stored ones.
            events: events to add.
            rows: segments, stills or stages to add.
        """
        with self._write() as session, session.begin():
            job = _lock_job(session, lease)
            for name, value in changes.items():
                setattr(job, name, {**(getattr(job, name) or {}), **value} if name in MERGED else value)
            session.add_all(rows)
            _add_events(session, job, events)

    def end_job(self, lease: Lease, status: Status, error: tuple[str, str] | None = None) -> None:
        """End a job, with `(code, message)` if it failed. Raises LeaseLost."""
        with self._write() as session, session.begin():
            _end_job(session, _lock_job(session, lease), status, error)

    def release_job(self, lease: Lease) -> None:
        """End the lease of an unfinished job, so that another runner can claim it at once. Raises LeaseLost."""
        with self._write() as session, session.begin():
            job = _lock_job(session, lease)
            job.lease_until = 0.0
            job.attempts -= 1

    def list_removable_jobs(self, limit: int = 20) -> list[str]:
        """Return the ids of jobs that were deleted and have ended, as has their parent."""
        unfinished = select(Job.id).where(Job.status.notin_(TERMINAL))
        alone = or_(Job.parent.is_(None), Job.parent.notin_(unfinished))
        with self._read() as session:
            query = select(Job.id).where(Job.deleted, Job.status.in_(TERMINAL), alone)
            return list(session.scalars(query.limit(limit)))

    def remove_job(self, job_id: str) -> None:
        """Remove a job's row, segments, stills, stages and events."""
        with self._write() as session, session.begin():
            for table in (Segment, Still, Stage, Event):
                session.execute(delete(table).where(table.job_id == job_id))
            session.execute(delete(Job).where(Job.id == job_id))

    # Uploads.

    def add_file(self, file: File) -> File:
        with self._write() as session, session.begin():
            session.add(file)
        return file

    def get_file(self, file_id: str, owner: str) -> File:
        """Return an upload. Raises NotFound if there is none with this id, or it belongs to another owner."""
        with self._read() as session:
            file = session.get(File, file_id)
        if file is None or file.owner != owner:
            raise NotFound(f"there is no file {file_id[:80]!r}", param="id")
        return file

    def list_files(self, owner: str, page: Page) -> tuple[list[File], bool]:
        """Return a page of an owner's uploads, and whether more follow."""
        with self._read() as session:
            return _list_page(session, select(File).where(File.owner == owner), File, owner, page)

    def remove_file(self, file_id: str, owner: str) -> File:
        """Remove an upload's row and return it. Raises NotFound, or Conflict while an unfinished job uses it."""
        file = self.get_file(file_id, owner)
        with self._write() as session, session.begin():
            unfinished = select(Job).where(Job.owner == owner, Job.status.notin_(TERMINAL))
            for job in session.scalars(unfinished):
                if file.key in job.media.values():
                    raise Conflict(f"the file is in use by job {job.id}; cancel that job or wait for it", param="id")
            session.execute(delete(File).where(File.id == file_id))
        return file

    # API keys.

    def add_key(self, owner: str) -> str:
        """Create an API key for `owner` and return it. Only its hash is stored, so it cannot be shown again."""
        key = f"rg-{secrets.token_urlsafe(32)}"
        with self._write() as session, session.begin():
            session.add(ApiKey(sha256=_hash_key(key), owner=owner, created_at=time.time()))
        return key

    def find_owner(self, key: str) -> str | None:
        """Return the owner of an API key, or None if the key is not valid."""
        with self._read() as session:
            found = session.get(ApiKey, _hash_key(key))
        return found.owner if found else None

    def list_keys(self) -> list[ApiKey]:
        with self._read() as session:
            return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))

    def revoke_keys(self, owner: str) -> int:
        """Remove all keys of an owner, and return their number."""
        with self._write() as session, session.begin():
            mine = list(session.scalars(select(ApiKey).where(ApiKey.owner == owner)))
            for key in mine:
                session.delete(key)
        return len(mine)

    # Deployed models and graphs.

    def replace_deployed(self, application: str, rows: Sequence[Deployed]) -> None:
        """Replace the rows of an application with those of what it hosts now."""
        with self._write() as session, session.begin():
            session.execute(delete(Deployed).where(Deployed.application == application))
            session.add_all(rows)

    def list_deployed(self) -> list[Deployed]:
        """Return the rows of all applications, including those that are no longer deployed."""
        with self._read() as session:
            return list(session.scalars(select(Deployed).order_by(Deployed.application, Deployed.position)))

    # Metrics.

    def count_jobs(self) -> list[tuple[str, str, int]]:
        """Return `(model, status, number of jobs)` for each model and status."""
        with self._read() as session:
            rows = session.execute(select(Job.model, Job.status, func.count()).group_by(Job.model, Job.status))
            return [(model, status, count) for model, status, count in rows]

    def measure_queue_wait(self) -> float:
        """Return the age of the oldest queued job in seconds; 0 if the queue is empty."""
        with self._read() as session:
            oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == "queued"))
        return max(0.0, time.time() - oldest) if oldest is not None else 0.0

    def sum_stage_seconds(self) -> list[tuple[str, str, int, float]]:
        """Return `(stage, model, count, total seconds)` for each stage and model."""
        with self._read() as session:
            rows = session.execute(
                select(Stage.name, Stage.model, func.count(), func.sum(Stage.seconds)).group_by(Stage.name, Stage.model)
            )
            return [(name, model, count, seconds) for name, model, count, seconds in rows]


def _hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _check_visible(job: Job | None, job_id: str, owner: str | None) -> Job:
    if job is None or job.deleted or (owner is not None and job.owner != owner):
        raise NotFound(f"there is no video {job_id[:80]!r}", param="id")
    return job


def _lock_job(session: Session, lease: Lease) -> Job:
    job = session.get(Job, lease.job_id, with_for_update=True)
    if job is None or job.fence != lease.fence or job.has_ended:
        raise LeaseLost(f"the lease on {lease.job_id} was lost")
    return job


def _add_job(session: Session, job: Job) -> None:
    session.add(job)
    session.flush()
    _add_events(session, job, [EventDraft.of(StatusEvent(status="queued"))])


def _stop_children(session: Session, parent: Job) -> None:
    """Stop the unfinished children of a job that stops or fails."""
    for job in session.scalars(select(Job).where(Job.parent == parent.id, Job.status.notin_(TERMINAL))):
        job.cancel_requested = True
        if job.status == "queued":
            _end_job(session, job, "failed", ("cancelled", "the parent job was stopped"))


def _add_events(session: Session, job: Job, events: Iterable[EventDraft]) -> None:
    for event in events:
        job.last_event += 1
        session.add(Event(job_id=job.id, number=job.last_event, kind=event.kind, data=dict(event.data)))


def _end_job(session: Session, job: Job, status: Status, error: tuple[str, str] | None) -> None:
    job.status, job.completed_at, job.stage = status, time.time(), None
    if status == "completed":
        job.progress = 1.0
    ending = StatusEvent(status=status)
    if error is not None:
        job.error_code, job.error_message = error
        ending = StatusEvent(status=status, error=VideoError(code=error[0], message=error[1]))
    # Progress events and their previews are useless after the end, and take most of the space.
    session.execute(delete(Event).where(Event.job_id == job.id, Event.kind == "progress"))
    _add_events(session, job, [EventDraft.of(ending)])
    if status == "failed":
        _stop_children(session, job)


def _list_page(
    session: Session, query: Select[Row], table: type[Row], owner: str, page: Page
) -> tuple[list[Row], bool]:
    """Return a page of `query`, and whether more rows follow. Raises NotFound if the owner has no row `page.after`."""
    newest_first = page.order == "desc"
    if page.after is not None:
        last = session.get(table, page.after)
        if last is None or last.owner != owner:
            raise NotFound(f"after: there is no {page.after[:80]!r}", param="after")
        later = (table.created_at > last.created_at) | ((table.created_at == last.created_at) & (table.id > last.id))
        earlier = (table.created_at < last.created_at) | ((table.created_at == last.created_at) & (table.id < last.id))
        query = query.where(earlier if newest_first else later)
    keys = (table.created_at.desc(), table.id.desc()) if newest_first else (table.created_at, table.id)
    rows = list(session.scalars(query.order_by(*keys).limit(page.limit + 1)))
    return rows[: page.limit], len(rows) > page.limit
