"""Content of jobs as streams: videos (also while they are made), zip archives of frames, scores and events."""

import asyncio
import io
import json
import re
import time
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from composition.media.findings import Judgement
from composition.media.formats import ContentFormat
from composition.records.artifacts import Artifacts
from composition.records.events import FrameScoresObject
from composition.records.store import Store
from composition.records.tables import Still
from services.errors import ModelFailed, NotFound, RangeNotSatisfiable

POLL_S = 0.2
"""Interval at which a running job is polled, in seconds."""
KEEP_ALIVE_S = 15.0
"""Interval of keep-alive comments in an event stream without events, in seconds."""

SCORES = tuple(FrameScoresObject.model_fields)
"""Columns of a job's metrics after the frame index, if frames were scored."""
SIGNALS = ("brightness", "contrast", "change", "residual", "flags")
"""Columns of a job's metrics after these: what was measured of each frame (`FrameSignals`), and its faults."""


class ContentQuery(BaseModel):
    """The query parameters of a download."""

    variant: str | None = None
    """Variant of the content, e.g. `thumbnail`; by default the job's main variant."""
    format: ContentFormat | None = None
    """Format of the content: `mp4`, `gif`, `webp` or `png` (a zip archive of its frames) for a video that is complete;
    `png`, `jpeg` or `webp` for a picture; `csv` or `json` for `metrics`. By default the first of these."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) in bytes of a `Range` header, or None if the whole content must be sent.

    A header with several ranges or with invalid syntax is ignored, as RFC 9110 allows.

    Args:
        header: the value of the header.
        size: of the content, in bytes.

    Raises:
        RangeNotSatisfiable: the range is outside the content.
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
        raise RangeNotSatisfiable(f"Range: {header} is outside the content, which has {size} bytes", param="Range")
    return start, stop


async def read_video(store: Store, artifacts: Artifacts, job_id: str, variant: str) -> AsyncIterator[bytes]:
    """Yield the stored segments of one of a job's videos."""
    for segment in await asyncio.to_thread(store.list_segments, job_id, variant=variant):
        for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
            yield chunk


async def follow_video(store: Store, artifacts: Artifacts, job_id: str, variant: str) -> AsyncIterator[bytes]:
    """Yield the stored segments of one of a job's videos, then each new segment until the video is complete.

    Raises:
        ModelFailed: the job failed. This breaks the connection, so that no client takes a truncated file for complete.
    """
    index = -2
    while True:
        job = await asyncio.to_thread(store.get_job, job_id)
        for segment in await asyncio.to_thread(store.list_segments, job_id, index, variant):
            index = segment.index
            for chunk in await asyncio.to_thread(list, artifacts.read(segment.key)):
                yield chunk
        if (
            variant in job.results or job.status == "completed"
        ):  # `job` was read before the segments, so none was missed
            return
        if job.status == "failed":
            raise ModelFailed(job.error_message or "the job failed")
        await asyncio.sleep(POLL_S)


async def stream_events(store: Store, job_id: str, after: int) -> AsyncIterator[str]:
    """Yield a job's events in the format of server-sent events, from number `after` + 1 until the job has ended."""
    last_sent = time.monotonic()
    while True:
        events = await asyncio.to_thread(store.list_events, job_id, after)
        for event in events:
            after = event.number
            yield f"id: {event.number}\nevent: {event.kind}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"
            last_sent = time.monotonic()
        if not events:
            try:
                job = await asyncio.to_thread(store.get_job, job_id)
            except NotFound:
                return
            if job.has_ended and job.last_event <= after:
                return
            if time.monotonic() - last_sent > KEEP_ALIVE_S:
                last_sent = time.monotonic()
                yield ": keep-alive\n\n"
            await asyncio.sleep(POLL_S)


def format_metrics_csv(stills: Sequence[Still], judgement: Judgement) -> str:
    """Return the metrics of a job's frames as CSV with a header line; see `list_metrics`."""
    rows = list_metrics(stills, judgement)
    return _format_csv(tuple(rows[0]) if rows else ("frame", *SIGNALS), rows)


def _format_csv(header: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [header, *([_format_value(value) for value in row.values()] for row in rows)]
    return "".join(f"{','.join(line)}\r\n" for line in lines)


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(cast("list[str]", value))
    return "" if value is None else repr(value)


def list_metrics(stills: Sequence[Still], judgement: Judgement) -> list[dict[str, Any]]:
    """Return an object for each frame of a video: its index, scores if any frame was scored, signals and faults.

    Args:
        stills: the losslessly stored frames, with their scores.
        judgement: of the frames in segments. A frame that is stored only as a picture so far has no signals.
    """
    scores = {row["frame"]: row for row in list_scores(stills)}
    measured = list(zip(judgement.frames, judgement.list_flags(), strict=True))
    rows: list[dict[str, Any]] = []
    for index in range(max(len(measured), max(scores, default=-1) + 1)):
        row: dict[str, Any] = {"frame": index}
        if scores:
            row |= scores.get(index, dict.fromkeys(SCORES))
        if index < len(measured):
            frame, flags = measured[index]
            values = (frame.brightness, frame.contrast, frame.change, frame.residual, flags)
            row |= zip(SIGNALS, values, strict=True)
        else:
            row |= dict.fromkeys(SIGNALS)
        rows.append(row)
    return rows


def list_scores(stills: Sequence[Still]) -> list[dict[str, Any]]:
    """Return an object with index and scores for each frame of a job that was scored: all but the first."""
    return [
        {"frame": still.index, **{name: still.scores.get(name) for name in SCORES}}
        for still in stills
        if still.scores is not None
    ]


async def stream_zip(artifacts: Artifacts, stills: Sequence[Still], *, with_names: bool) -> AsyncIterator[bytes]:
    """Yield a zip archive of pictures, with one picture in memory at a time.

    Args:
        artifacts: the artifact store.
        stills: the pictures.
        with_names: whether the entries are called `INDEX-NAME.png` instead of `INDEX.png`.
    """
    buffer = WriteBuffer()
    with zipfile.ZipFile(buffer, "w") as archive:
        for still in stills:
            entry = zipfile.ZipInfo(f"{still.index:06d}-{still.name}.png" if with_names else f"{still.index:06d}.png")
            data = b"".join(await asyncio.to_thread(list, artifacts.read(still.key)))
            archive.writestr(entry, data)
            yield buffer.take_bytes()
    yield buffer.take_bytes()


class WriteBuffer(io.RawIOBase):
    """A file that can only be written, and whose contents are taken piece by piece."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def take_bytes(self) -> bytes:
        """Return the bytes written since the last call."""
        data, self._chunks = b"".join(self._chunks), []
        return data
