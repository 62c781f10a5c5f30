"""The job runner: claims jobs, runs their graphs, and records how they end. Any runner can resume a job of another."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from composition.graphs.calls import Handle, Transport
from composition.graphs.graph import Graph, Runnable
from composition.jobs.attempt import Attempt
from composition.jobs.publishing import OutputSettings
from composition.media.encoding import Hardware
from composition.media.limits import MediaLimits
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MARKS_OFF, MarksSettings
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store
from composition.records.tables import Job
from services.errors import Cancelled, LeaseLost, ReelError, ServiceBusy, ServiceLost

log = logging.getLogger("ray.serve.reelgraph.jobs")


class RunnerSettings(BaseModel):
    """Configuration of a job runner."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str
    """SQLAlchemy URL."""
    artifacts: ArtifactSettings
    media: MediaLimits = MediaLimits()
    concurrency: int = Field(default=2, ge=1)
    """Maximum number of jobs that one runner works on at the same time."""
    lease_s: float = Field(default=15.0, gt=0)
    """Duration of a lease in seconds: the time after which another runner takes over the jobs of a dead one."""
    poll_s: float = Field(default=0.2, gt=0)
    """Interval in seconds at which a runner looks for new jobs and for cancelled ones."""
    hardware: Hardware = "never"
    """Whether videos are encoded on a GPU where one can."""
    marks: MarksSettings = MARKS_OFF
    """What finished files say about how they were made."""
    state: Path = Path()
    """The state folder, in which the key is kept that signs the marks."""
    max_attempts: int = Field(default=5, ge=1)
    """Maximum number of attempts; after that a job that was interrupted each time has failed."""


FindGraph = Callable[[Job], tuple[Handle[Runnable], Graph]]
"""Returns the handle of the graph that runs a job, and the graph. Blocks. Raises ModelFailed if it is not served."""


class JobRunner:
    """Runs jobs until it is closed.

    Args:
        find_graph: see FindGraph.
        waiting: names of the graphs whose jobs mostly wait for child jobs.
        settings: see RunnerSettings.
        transport: the exceptions of the calls to the graphs.
    """

    def __init__(
        self, find_graph: FindGraph, waiting: Sequence[str], settings: RunnerSettings, transport: Transport
    ) -> None:
        self._find_graph = find_graph
        self._waits = list(waiting)
        self._settings = settings
        self._transport = transport
        self._store = Store(settings.database)
        self._artifacts = Artifacts(settings.artifacts)
        self._outputs = OutputSettings(settings.hardware, Marker(settings.marks, settings.state, settings.media))
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        """Running jobs that mostly wait for child jobs. Separate slots keep them from starving the other jobs."""
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._work())

    def check_health(self) -> None:
        """Raise RuntimeError if the runner's loop has ended unexpectedly."""
        if self._loop.done() and not self._closing.is_set():
            raise RuntimeError("the job runner stopped") from self._loop.exception()

    async def close(self) -> None:
        """Stop, and release the running jobs so that another runner can resume them at once."""
        self._closing.set()
        await self._loop
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._store.close()

    async def _work(self) -> None:
        while not self._closing.is_set():
            job = await asyncio.to_thread(self._claim)
            if job is not None:
                task = asyncio.create_task(self._hold(job))
                for tasks in (self._running, self._waiting) if job.model in self._waits else (self._running,):
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                continue
            await asyncio.to_thread(self._sweep)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._settings.poll_s)

    def _claim(self) -> Job | None:
        """Claim a job for which a slot is free. Jobs of graphs that are no longer served are claimed too; they fail."""
        waiting = len(self._waiting)
        works = len(self._running) - waiting < self._settings.concurrency
        waits = waiting < self._settings.concurrency
        if not (works or waits):
            return None
        return self._store.claim_job(
            self._settings.lease_s, None if works else self._waits, () if waits else self._waits
        )

    def _sweep(self) -> None:
        """Remove the files and rows of deleted jobs."""
        for job_id in self._store.list_removable_jobs():
            self._artifacts.remove(f"videos/{job_id}")
            self._store.remove_job(job_id)

    async def _hold(self, job: Job) -> None:
        """Run a job until it ends, its lease is lost, or it is cancelled."""
        lease = Lease(job.id, job.fence)
        work = asyncio.create_task(self._run(job, lease))
        watch = asyncio.create_task(self._watch(lease))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (watch, work):
                task.cancel()
            await asyncio.wait((work, watch))
            with contextlib.suppress(LeaseLost):
                await asyncio.to_thread(self._conclude, lease, work, watch)

    async def _watch(self, lease: Lease) -> None:
        """Renew the lease. Raises Cancelled if the job was cancelled, LeaseLost if another runner holds the lease."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.poll_s)
            if await asyncio.to_thread(self._store.is_stop_requested, lease):
                raise Cancelled("the job was cancelled")
            if time.monotonic() - renewed > self._settings.lease_s / 4:
                renewed = time.monotonic()
                await asyncio.to_thread(self._store.renew_lease, lease, self._settings.lease_s)

    def _conclude(self, lease: Lease, work: asyncio.Task[None], watch: asyncio.Task[None]) -> None:
        """Record how the job ended. Raises LeaseLost."""
        if work.cancelled():
            stopped = None if watch.cancelled() else watch.exception()
            if not isinstance(stopped, Cancelled):  # the runner is closing, or the lease or the database is lost
                return self._store.release_job(lease)
            error: BaseException | None = stopped
        else:
            error = work.exception()
        if error is None:
            self._store.end_job(lease, "completed")
        elif isinstance(error, ReelError):
            self._store.end_job(lease, "failed", (error.code, error.message))
        else:
            log.error("job failed", extra={"job": lease.job_id}, exc_info=error)
            self._store.end_job(lease, "failed", ("internal_error", "internal server error; it has been logged"))
        log.info("job ended", extra={"job": lease.job_id, "error": type(error).__name__ if error else None})
        return None

    async def _run(self, job: Job, lease: Lease) -> None:
        """Run the graph until the output is complete; retry after retryable errors."""
        if job.attempts > self._settings.max_attempts:
            raise ServiceLost(
                f"the job's runner was lost {job.attempts - 1} times, and the limit is {self._settings.max_attempts}"
            )
        attempts = job.attempts
        is_retry = attempts > 1
        while True:
            try:
                handle, graph = await asyncio.to_thread(self._find_graph, job)
                attempt = Attempt(self._store, self._artifacts, self._settings.media, job, lease, self._outputs)
                return await attempt.run(handle, graph, self._transport, is_retry=is_retry)
            except LeaseLost:
                raise
            except ReelError as error:
                attempts += not isinstance(error, ServiceBusy)
                if not error.retryable or attempts > self._settings.max_attempts:
                    raise
                log.warning("job goes on", extra={"job": job.id, "attempt": attempts, "error": error.code})
            is_retry = True
            await asyncio.sleep(min(8.0, 0.5 * 2**attempts))
            job = await asyncio.to_thread(self._store.get_job, job.id)
