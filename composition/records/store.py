"""Remembering: jobs, what became of them, uploads and API keys, in a database (SQLite or PostgreSQL).

A job's row exists before anything is done for it. Whoever works on it holds a lease with a fencing number, and every
write names that number: a runner that was thought dead and comes back can change nothing any more.

All methods block; callers in an event loop run them in a thread.
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

from composition.records.database import for_writing, open_database
from composition.records.events import JobEvent, Status, StatusEvent, VideoError
from composition.records.tables import TERMINAL, ApiKey, Deployed, Event, File, Job, Segment, Stage, Still, Table
from composition.variants import FRAME, VIDEO
from services.errors import Cancelled, Conflict, LeaseLost, NotFound, QueueFull

Order = Literal["asc", "desc"]


Row = TypeVar("Row", Job, File)


@dataclass(frozen=True)
class News:
    """Something a job's watchers should hear."""

    kind: str
    data: Mapping[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> "News":
        """Return the news of an event. What the event leaves out is left out."""
        return cls(event.KIND, event.model_dump(mode="json", exclude_unset=True))


@dataclass(frozen=True)
class Page:
    """Which part of a list: `after` is the id of the last one seen."""

    limit: int = 20
    after: str | None = None
    order: Order = "desc"


@dataclass(frozen=True)
class Lease:
    """The right to work on a job, until it is taken away."""

    job_id: str
    fence: int


@cache
def shared_store(url: str) -> "Store":
    """Return the one Store of this process for a URL. It is never closed."""
    return Store(url)


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


class Store:
    """The database, opened by URL: `sqlite:////path/reelgraph.db` or `postgresql+psycopg://…`."""

    def __init__(self, url: str) -> None:
        self._engine = open_database(url)
        self._writing = for_writing(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def check(self) -> None:
        """Raise when the database cannot be asked."""
        with self._read() as session:
            session.execute(select(1))

    def _read(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def _write(self) -> Session:
        return Session(self._writing, expire_on_commit=False)

    # Jobs, from outside.

    def create_job(self, job: Job, max_queued: int) -> Job:
        """Store a job that is to run. Raises QueueFull when `max_queued` jobs wait already."""
        with self._write() as session, session.begin():
            self._refuse_when_full(session, max_queued)
            _add(session, job)
        return job

    def create_child(self, job: Job) -> Job:
        """Store a job that is a part of another one, unless it is there already; return the one that is there.

        It does not count as waiting in the queue: its parent has been let in. Raises NotFound without that parent,
        and Cancelled where it is to stop.
        """
        with self._write() as session, session.begin():
            there = session.get(Job, job.id)
            if there is not None:
                return there
            parent = session.get(Job, job.parent, with_for_update=True)
            if parent is None:
                raise NotFound(f"there is no video {job.parent!r} to be a part of")
            if parent.ended or parent.cancel_requested:
                raise Cancelled("the job that this would be a part of is to stop")
            _add(session, job)
        return job

    def refuse_when_full(self, max_queued: int) -> None:
        """Raise QueueFull when no job would be taken now."""
        with self._read() as session:
            self._refuse_when_full(session, max_queued)

    def _refuse_when_full(self, session: Session, max_queued: int) -> None:
        queued = select(func.count()).select_from(Job).where(Job.status == "queued", Job.parent.is_(None))
        waiting = session.scalar(queued) or 0
        if waiting >= max_queued:
            raise QueueFull(f"{waiting} jobs wait already, and the limit is {max_queued}; try again later")

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """Raises NotFound when there is none, or it is another owner's."""
        with self._read() as session:
            return _visible(session.get(Job, job_id), job_id, owner)

    def jobs(self, owner: str, page: Page) -> tuple[list[Job], bool]:
        """A page of an owner's jobs, and whether there are more."""
        with self._read() as session:
            query = select(Job).where(Job.owner == owner, Job.deleted.is_(False))
            return _paged(session, query, Job, owner, page)

    def stop_job(self, job_id: str, owner: str, *, delete_it: bool = False) -> Job:
        """Ask for a job to end. One that waits ends now; one that runs is stopped by its runner."""
        with self._write() as session, session.begin():
            job = _visible(session.get(Job, job_id, with_for_update=True), job_id, owner)
            if not job.ended:
                job.cancel_requested = True
                if job.status == "queued":
                    _end(session, job, "failed", ("cancelled", "the job was cancelled before it began"))
            elif not delete_it:
                raise Conflict(f"the job is {job.status} and cannot be cancelled any more", param="id")
            job.deleted = job.deleted or delete_it
            if delete_it:
                session.execute(update(Job).where(Job.parent == job.id).values(deleted=True))
            _stop_children(session, job)
            return job

    def children(self, job_ids: Sequence[str]) -> dict[str, list[Job]]:
        """The jobs that are parts of others, by these, in the order in which they were made."""
        found: dict[str, list[Job]] = {job_id: [] for job_id in job_ids}
        with self._read() as session:
            query = select(Job).where(Job.parent.in_(job_ids), Job.deleted.is_(False))
            for job in session.scalars(query.order_by(Job.created_at, Job.id)):
                found[job.parent or ""].append(job)
        return found

    def stages(self, job_ids: Sequence[str]) -> dict[str, list[Stage]]:
        """The stages that were done, by job."""
        found: dict[str, list[Stage]] = {job_id: [] for job_id in job_ids}
        with self._read() as session:
            for stage in session.scalars(select(Stage).where(Stage.job_id.in_(job_ids)).order_by(Stage.id)):
                found[stage.job_id].append(stage)
        return found

    def segments(self, job_id: str, after: int = -2, variant: str = VIDEO) -> list[Segment]:
        """The segments of one of a job's videos with an index above `after`, in order."""
        with self._read() as session:
            mine = (Segment.job_id == job_id, Segment.variant == variant, Segment.index > after)
            return list(session.scalars(select(Segment).where(*mine).order_by(Segment.index)))

    def stills(self, job_id: str, *, frames: bool, start: int = 0) -> list[Still]:
        """The frames that are kept without loss, or the other pictures, of frame `start` and later ones, in order."""
        with self._read() as session:
            wanted = Still.name == FRAME if frames else Still.name != FRAME
            query = select(Still).where(Still.job_id == job_id, wanted, Still.index >= start)
            return list(session.scalars(query.order_by(Still.index, Still.name)))

    def still(self, job_id: str, index: int) -> Still | None:
        """A frame that is kept without loss; -1 is the last one there is."""
        with self._read() as session:
            query = select(Still).where(Still.job_id == job_id, Still.name == FRAME).order_by(Still.index.desc())
            return session.scalars((query if index < 0 else query.where(Still.index == index)).limit(1)).first()

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """The events numbered above `after`, in order."""
        with self._read() as session:
            query = select(Event).where(Event.job_id == job_id, Event.number > after)
            return list(session.scalars(query.order_by(Event.number).limit(limit)))

    # Jobs, from their runner.

    def claim(self, lease_s: float, only: Sequence[str] | None = None, but: Sequence[str] = ()) -> Job | None:
        """Take the oldest job that nobody works on: one that waits, or one whose runner let its lease run out.

        Args:
            lease_s: how long it is ours.
            only: of which models; None is of any.
            but: of which models not.
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
                _tell(session, job, [News.of(StatusEvent(status="in_progress"))])
            return job

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Prolong a lease. Returns whether somebody asked for the job to stop. Raises LeaseLost."""
        with self._write() as session, session.begin():
            job = _held(session, lease)
            job.lease_until = time.time() + lease_s
            return job.cancel_requested

    def stop_requested(self, lease: Lease) -> bool:
        """Whether somebody asked for the job to stop. Raises LeaseLost."""
        with self._read() as session:
            row = session.execute(select(Job.fence, Job.cancel_requested).where(Job.id == lease.job_id)).first()
        if row is None or row.fence != lease.fence:
            raise LeaseLost(f"{lease.job_id} is no longer ours")
        return row.cancel_requested

    def record(
        self, lease: Lease, changes: Mapping[str, Any], news: Iterable[News], rows: Iterable[Table] = ()
    ) -> None:
        """Change columns of the job, add rows that belong to it, and tell its watchers, all or nothing.

        A key of `changes` names a column of Job; the values of `facts` and `results` are merged into what is there.
        Raises LeaseLost.
        """
        with self._write() as session, session.begin():
            job = _held(session, lease)
            for name, value in changes.items():
                setattr(job, name, {**getattr(job, name), **value} if name in ("facts", "results") else value)
            session.add_all(rows)
            _tell(session, job, news)

    def end(self, lease: Lease, status: Status, error: tuple[str, str] | None = None) -> None:
        """End a job, with (code, message) when it failed. Raises LeaseLost."""
        with self._write() as session, session.begin():
            _end(session, _held(session, lease), status, error)

    def release(self, lease: Lease) -> None:
        """Give a job back unfinished, for another runner to go on with at once."""
        with self._write() as session, session.begin():
            job = _held(session, lease)
            job.lease_until = 0.0
            job.attempts -= 1

    def condemned(self, limit: int = 20) -> list[str]:
        """Jobs that were deleted and that nobody works on any more, nor on what they are a part of."""
        unfinished = select(Job.id).where(Job.status.notin_(TERMINAL))
        alone = or_(Job.parent.is_(None), Job.parent.notin_(unfinished))
        with self._read() as session:
            query = select(Job.id).where(Job.deleted, Job.status.in_(TERMINAL), alone)
            return list(session.scalars(query.limit(limit)))

    def forget(self, job_id: str) -> None:
        """Remove a job and all that belongs to it."""
        with self._write() as session, session.begin():
            for table in (Segment, Still, Stage, Event):
                session.execute(delete(table).where(table.job_id == job_id))
            session.execute(delete(Job).where(Job.id == job_id))

    # Uploads.

    def add_file(self, file: File) -> File:
        with self._write() as session, session.begin():
            session.add(file)
        return file

    def file(self, file_id: str, owner: str) -> File:
        """Raises NotFound when there is none, or it is another owner's."""
        with self._read() as session:
            file = session.get(File, file_id)
        if file is None or file.owner != owner:
            raise NotFound(f"there is no file {file_id[:80]!r}", param="id")
        return file

    def files(self, owner: str, page: Page) -> tuple[list[File], bool]:
        """A page of an owner's uploads, and whether there are more."""
        with self._read() as session:
            return _paged(session, select(File).where(File.owner == owner), File, owner, page)

    def remove_file(self, file_id: str, owner: str) -> File:
        """Raises NotFound, or Conflict while a job still needs it."""
        file = self.file(file_id, owner)
        with self._write() as session, session.begin():
            unfinished = select(Job).where(Job.owner == owner, Job.status.notin_(TERMINAL))
            for job in session.scalars(unfinished):
                if file.key in job.media.values():
                    raise Conflict(f"{job.id} still needs this file; cancel it or wait for it", param="id")
            session.execute(delete(File).where(File.id == file_id))
        return file

    # API keys.

    def add_key(self, owner: str) -> str:
        """Make a key for `owner` and return it; it is not kept and cannot be shown again."""
        key = f"rg-{secrets.token_urlsafe(32)}"
        with self._write() as session, session.begin():
            session.add(ApiKey(sha256=_digest(key), owner=owner, created_at=time.time()))
        return key

    def owner_of(self, key: str) -> str | None:
        """Whose key it is, or None when nobody's."""
        with self._read() as session:
            found = session.get(ApiKey, _digest(key))
        return found.owner if found else None

    def api_keys(self) -> list[ApiKey]:
        with self._read() as session:
            return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at)))

    def revoke_keys(self, owner: str) -> int:
        """Remove all keys of an owner. Returns how many there were."""
        with self._write() as session, session.begin():
            mine = list(session.scalars(select(ApiKey).where(ApiKey.owner == owner)))
            for key in mine:
                session.delete(key)
        return len(mine)

    # What is deployed.

    def replace_deployed(self, application: str, rows: Sequence[Deployed]) -> None:
        """Write down what an application hosts now, in place of what it did."""
        with self._write() as session, session.begin():
            session.execute(delete(Deployed).where(Deployed.application == application))
            session.add_all(rows)

    def list_deployed(self) -> list[Deployed]:
        """Return what all applications host, also those that are served no longer."""
        with self._read() as session:
            return list(session.scalars(select(Deployed).order_by(Deployed.application, Deployed.position)))

    # Numbers.

    def counts(self) -> list[tuple[str, str, int]]:
        """(model, status, how many jobs)."""
        with self._read() as session:
            rows = session.execute(select(Job.model, Job.status, func.count()).group_by(Job.model, Job.status))
            return [(model, status, count) for model, status, count in rows]

    def oldest_waiting_s(self) -> float:
        """How long the oldest job in the queue has waited, in seconds."""
        with self._read() as session:
            oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == "queued"))
        return max(0.0, time.time() - oldest) if oldest is not None else 0.0

    def stage_seconds(self) -> list[tuple[str, str, int, float]]:
        """(stage, model, how often, seconds together)."""
        with self._read() as session:
            rows = session.execute(
                select(Stage.name, Stage.model, func.count(), func.sum(Stage.seconds)).group_by(Stage.name, Stage.model)
            )
            return [(name, model, count, seconds) for name, model, count, seconds in rows]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _visible(job: Job | None, job_id: str, owner: str | None) -> Job:
    if job is None or job.deleted or (owner is not None and job.owner != owner):
        raise NotFound(f"there is no video {job_id[:80]!r}", param="id")
    return job


def _held(session: Session, lease: Lease) -> Job:
    job = session.get(Job, lease.job_id, with_for_update=True)
    if job is None or job.fence != lease.fence or job.ended:
        raise LeaseLost(f"{lease.job_id} is no longer ours")
    return job


def _add(session: Session, job: Job) -> None:
    session.add(job)
    session.flush()
    _tell(session, job, [News.of(StatusEvent(status="queued"))])


def _stop_children(session: Session, parent: Job) -> None:
    """What is made for a job is of no use when that stops."""
    for job in session.scalars(select(Job).where(Job.parent == parent.id, Job.status.notin_(TERMINAL))):
        job.cancel_requested = True
        if job.status == "queued":
            _end(session, job, "failed", ("cancelled", "the job that it is a part of was stopped"))


def _tell(session: Session, job: Job, news: Iterable[News]) -> None:
    for item in news:
        job.last_event += 1
        session.add(Event(job_id=job.id, number=job.last_event, kind=item.kind, data=dict(item.data)))


def _end(session: Session, job: Job, status: Status, error: tuple[str, str] | None) -> None:
    job.status, job.completed_at, job.stage = status, time.time(), None
    if status == "completed":
        job.progress = 1.0
    ending = StatusEvent(status=status)
    if error is not None:
        job.error_code, job.error_message = error
        ending = StatusEvent(status=status, error=VideoError(code=error[0], message=error[1]))
    # Steps and their pictures are of no use to anybody who comes later, and they are most of the bytes.
    session.execute(delete(Event).where(Event.job_id == job.id, Event.kind == "progress"))
    _tell(session, job, [News.of(ending)])
    if status == "failed":
        _stop_children(session, job)


def _paged(session: Session, query: Select[Row], table: type[Row], owner: str, page: Page) -> tuple[list[Row], bool]:
    """Raises NotFound when there is nothing to start after, or it is another owner's."""
    newest_first = page.order == "desc"
    if page.after is not None:
        mark = session.get(table, page.after)
        if mark is None or mark.owner != owner:
            raise NotFound(f"there is no {page.after[:80]!r} to start after", param="after")
        later = (table.created_at > mark.created_at) | ((table.created_at == mark.created_at) & (table.id > mark.id))
        earlier = (table.created_at < mark.created_at) | ((table.created_at == mark.created_at) & (table.id < mark.id))
        query = query.where(earlier if newest_first else later)
    keys = (table.created_at.desc(), table.id.desc()) if newest_first else (table.created_at, table.id)
    rows = list(session.scalars(query.order_by(*keys).limit(page.limit + 1)))
    return rows[: page.limit], len(rows) > page.limit
