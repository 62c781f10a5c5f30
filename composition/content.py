"""What a job gives out: its file, or a range of it; its segments while it still runs; and its events."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator

from composition.artifacts import Artifacts
from composition.store import Store
from services.errors import ModelFailed, NotFound, RangeNotSatisfiable

POLL_S = 0.2
"""How often a follower looks for news."""
KEEP_ALIVE_S = 15.0
"""A silent event stream says this often that it is still there."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) in bytes of a `Range` header, or None where the whole is to be sent.

    Several ranges at once, and what is no byte range, are answered with the whole, as RFC 9110 allows.

    Raises:
        RangeNotSatisfiable: the range lies outside.
    """
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", (header or "").replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if last and first and int(last) < int(first):
        return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(f"Range: {header} lies outside the {size} bytes of the content", param="Range")
    return start, stop


async def kept(store: Store, artifacts: Artifacts, job_id: str) -> AsyncIterator[bytes]:
    """Yield what there is of a job's video."""
    for segment in await asyncio.to_thread(store.segments, job_id):
        for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
            yield chunk


async def live(store: Store, artifacts: Artifacts, job_id: str) -> AsyncIterator[bytes]:
    """Yield what exists of a job's video and then what is added, until the job ends.

    Raises ModelFailed when the job fails, so that the connection breaks and nobody takes a torso for the whole.
    """
    index = -2
    while True:
        job = await asyncio.to_thread(store.job, job_id)
        for segment in await asyncio.to_thread(store.segments, job_id, index):
            index = segment.index
            for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
                yield chunk
        if job.status == "completed":  # asked before the segments were, so that none is missed
            return
        if job.status == "failed":
            raise ModelFailed(job.error_message or "the job failed")
        await asyncio.sleep(POLL_S)


async def told(store: Store, job_id: str, after: int) -> AsyncIterator[str]:
    """Yield a job's events as server-sent events, from the one numbered `after` + 1 until the job has ended."""
    heard = time.monotonic()
    while True:
        events = await asyncio.to_thread(store.events, job_id, after)
        for event in events:
            after = event.number
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"
            heard = time.monotonic()
        if not events:
            try:
                job = await asyncio.to_thread(store.job, job_id)
            except NotFound:
                return
            if job.ended and job.last_event <= after:
                return
            if time.monotonic() - heard > KEEP_ALIVE_S:
                heard = time.monotonic()
                yield ": keep-alive\n\n"
            await asyncio.sleep(POLL_S)
