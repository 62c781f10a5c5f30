"""Running jobs: claim one, run its graph, write what comes out, and leave it so that another runner could go on."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from composition.graphs.calls import Handle, Transport
from composition.graphs.graph import Runnable
from composition.graphs.request import GraphRequest
from composition.jobs.attempt import Run
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store
from composition.records.tables import Job
from services.errors import Cancelled, LeaseLost, ReelError, ServiceBusy, ServiceLost

log = logging.getLogger("ray.serve.reelgraph.jobs")


class RunnerSettings(BaseModel):
    """What the configuration tells the runners."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database: str
    """SQLAlchemy URL."""
    artifacts: ArtifactSettings
    media: MediaLimits = MediaLimits()
    concurrency: int = Field(default=2, ge=1)
    """Jobs that one runner works on at a time."""
    lease_s: float = Field(default=15.0, gt=0)
    """After a runner dies, its jobs lie still for this long."""
    poll_s: float = Field(default=0.2, gt=0)
    """How often a runner looks for work, and for whether its jobs should stop."""
    max_attempts: int = Field(default=5, ge=1)
    """A job whose runs were all lost this often has failed."""


FindGraph = Callable[[Job], tuple[Handle[Runnable], type[GraphRequest]]]
"""Returns the graph that runs a job and the class of its request. Blocks; raises ModelFailed: it is not served."""


class JobRunner:
    """Works on jobs until it is closed.

    Args:
        find_graph: see FindGraph.
        waiting: the models whose jobs mostly wait for jobs of their own making.
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
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        """Of those, the ones that mostly wait for others. They have places of their own, or they could fill all."""
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop().create_task(self._work())

    def check_health(self) -> None:
        """Raise when the runner's loop has ended: nothing would be run any more."""
        if self._loop.done() and not self._closing.is_set():
            raise RuntimeError("the job runner stopped") from self._loop.exception()

    async def close(self) -> None:
        """Give back what is being worked on, for another runner to go on with at once."""
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
        """Take a job of a kind for which there is a place; of models that are served no longer too: those fail."""
        waiting = len(self._waiting)
        works = len(self._running) - waiting < self._settings.concurrency
        waits = waiting < self._settings.concurrency
        if not (works or waits):
            return None
        return self._store.claim_job(
            self._settings.lease_s, None if works else self._waits, () if waits else self._waits
        )

    def _sweep(self) -> None:
        """Remove what was deleted."""
        for job_id in self._store.list_removable_jobs():
            self._artifacts.remove(f"videos/{job_id}")
            self._store.remove_job(job_id)

    async def _hold(self, job: Job) -> None:
        """Work on a job for as long as its lease is ours and nobody wants it stopped."""
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
        """Keep the lease. Raises Cancelled when the job should stop, LeaseLost when it is no longer ours."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.poll_s)
            if await asyncio.to_thread(self._store.is_stop_requested, lease):
                raise Cancelled("the job was cancelled")
            if time.monotonic() - renewed > self._settings.lease_s / 4:
                renewed = time.monotonic()
                await asyncio.to_thread(self._store.renew_lease, lease, self._settings.lease_s)

    def _conclude(self, lease: Lease, work: asyncio.Task[None], watch: asyncio.Task[None]) -> None:
        """Write down how it ended. Raises LeaseLost."""
        if work.cancelled():
            stopped = None if watch.cancelled() else watch.exception()
            if not isinstance(stopped, Cancelled):  # we are closing, or the lease or the database is gone
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
            self._store.end_job(lease, "failed", ("internal_error", "the job failed by a fault of the server"))
        log.info("job ended", extra={"job": lease.job_id, "error": type(error).__name__ if error else None})
        return None

    async def _run(self, job: Job, lease: Lease) -> None:
        """Run the graph, again where a part of it was lost, until the output is whole."""
        if job.attempts > self._settings.max_attempts:
            raise ServiceLost(
                f"the job's runner was lost {job.attempts - 1} times, and the limit is {job.attempts - 1}"
            )
        attempts = job.attempts
        again = attempts > 1
        while True:
            try:
                graph, request_type = await asyncio.to_thread(self._find_graph, job)
                run = Run(self._store, self._artifacts, self._settings.media, job, lease)
                return await run.go(graph, request_type, self._transport, again=again)
            except LeaseLost:
                raise
            except ReelError as error:
                attempts += not isinstance(error, ServiceBusy)
                if not error.retryable or attempts > self._settings.max_attempts:
                    raise
                log.warning("job goes on", extra={"job": job.id, "attempt": attempts, "error": error.code})
            again = True
            await asyncio.sleep(min(8.0, 0.5 * 2**attempts))
            job = await asyncio.to_thread(self._store.get_job, job.id)
