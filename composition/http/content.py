"""What a job gives out: its file, or a range of it; its segments while it still runs; its frames; and its events."""

import asyncio
import io
import json
import re
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from composition.records.artifacts import Artifacts
from composition.records.events import ScoresObject
from composition.records.store import Store
from composition.records.tables import Still
from services.errors import ModelFailed, NotFound, RangeNotSatisfiable

POLL_S = 0.2
"""How often a follower looks for news."""
KEEP_ALIVE_S = 15.0
"""A silent event stream says this often that it is still there."""

SCORES = tuple(ScoresObject.model_fields)
"""The columns of a job's metrics, behind the frame's number."""


class ContentQuery(BaseModel):
    """Which of a job's results, and how it is written."""

    variant: str | None = None
    """One of the job's results, e.g. `thumbnail`; by default what the job is for."""
    format: Literal["csv", "json"] | None = None
    """Of metrics; by default `csv`."""


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


async def kept(store: Store, artifacts: Artifacts, job_id: str, variant: str) -> AsyncIterator[bytes]:
    """Yield what there is of one of a job's videos."""
    for segment in await asyncio.to_thread(store.list_segments, job_id, variant=variant):
        for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
            yield chunk


async def live(store: Store, artifacts: Artifacts, job_id: str, variant: str) -> AsyncIterator[bytes]:
    """Yield what exists of one of a job's videos and then what is added, until it is whole.

    Raises ModelFailed when the job fails, so that the connection breaks and nobody takes a torso for the whole.
    """
    index = -2
    while True:
        job = await asyncio.to_thread(store.get_job, job_id)
        for segment in await asyncio.to_thread(store.list_segments, job_id, index, variant):
            index = segment.index
            for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
                yield chunk
        if variant in job.results or job.status == "completed":  # as it was before the segments were asked for
            return
        if job.status == "failed":
            raise ModelFailed(job.error_message or "the job failed")
        await asyncio.sleep(POLL_S)


async def told(store: Store, job_id: str, after: int) -> AsyncIterator[str]:
    """Yield a job's events as server-sent events, from the one numbered `after` + 1 until the job has ended."""
    heard = time.monotonic()
    while True:
        events = await asyncio.to_thread(store.list_events, job_id, after)
        for event in events:
            after = event.number
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"
            heard = time.monotonic()
        if not events:
            try:
                job = await asyncio.to_thread(store.get_job, job_id)
            except NotFound:
                return
            if job.has_ended and job.last_event <= after:
                return
            if time.monotonic() - heard > KEEP_ALIVE_S:
                heard = time.monotonic()
                yield ": keep-alive\n\n"
            await asyncio.sleep(POLL_S)


def table(stills: Sequence[Still]) -> str:
    """The scores of a job's frames as CSV, a line for each frame behind the first."""
    rows = (("" if value is None else repr(value) for value in row.values()) for row in scored(stills))
    return "".join(f"{','.join(row)}\r\n" for row in (("frame", *SCORES), *rows))


def scored(stills: Sequence[Still]) -> list[dict[str, Any]]:
    """The scores of a job's frames, one object for each frame behind the first."""
    return [
        {"frame": still.index, **{name: still.scores.get(name) for name in SCORES}}
        for still in stills
        if still.scores is not None
    ]


async def zipped(artifacts: Artifacts, stills: Sequence[Still], *, named: bool) -> AsyncIterator[bytes]:
    """Yield pictures as a zip archive, one after another, so that none waits in memory for the others.

    Args:
        artifacts: where they lie.
        stills: the pictures.
        named: whether an entry is called by what it shows, beside its frame.
    """
    sink = Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for still in stills:
            entry = zipfile.ZipInfo(f"{still.index:06d}-{still.name}.png" if named else f"{still.index:06d}.png")
            data = b"".join(await asyncio.to_thread(list, artifacts.read(still.key)))
            archive.writestr(entry, data)
            yield sink.drained()
    yield sink.drained()


class Sink(io.RawIOBase):
    """What was written since the last time, for a writer that never goes back."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._held.append(bytes(data))
        return len(data)

    def drained(self) -> bytes:
        held, self._held = b"".join(self._held), []
        return held
