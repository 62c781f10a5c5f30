"""Results of jobs in other file formats: made when first requested, then kept with the job's files."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, cast, get_args

from composition.http.content import stream_zip
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings, Publisher, change_pictures
from composition.media.animation import AnimationFormat
from composition.media.convert import convert_video
from composition.media.encode_picture import convert_picture
from composition.media.formats import PictureFormat, VideoFormat
from composition.media.limits import MediaLimits
from composition.media.turns import Turns
from composition.records.artifacts import Artifacts
from composition.records.store import Store
from composition.records.tables import Job
from composition.variants import VIDEO
from services.errors import InvalidParameter, NotFound, StorageFailed

Form: TypeAlias = VideoFormat | PictureFormat

STORED: Mapping[str, Form] = {"mp4": "mp4", "png": "png", "jpg": "jpeg"}
"""Extension of a stored result → its format."""
MAX_DURATION_S = 1e9
"""Maximum duration of a result, in seconds."""
CONCURRENT_CONVERSIONS = 2
"""Maximum number of results that are converted at the same time, each for another owner."""
MAX_SIDE = 65535
"""Maximum width and height of a result, in pixels."""


class Renditions:
    """Converts results of jobs, one at a time for each owner.

    Args:
        store: the database.
        artifacts: the artifact store; the converted files are kept in the job's folder and deleted with it.
        limits: deadline and memory of the decoder.
        max_pixels: maximum number of pixels of a video, frames × width × height.
        outputs: how the files are marked.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        limits: MediaLimits,
        max_pixels: int,
        outputs: OutputSettings = DEFAULT_OUTPUTS,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        # The limits on files that people send do not apply to results.
        sizes = {"max_pixels": max_pixels, "max_side": MAX_SIDE, "min_side": 1, "max_frames": max_pixels}
        self._limits = limits.model_copy(update={**sizes, "max_duration_s": MAX_DURATION_S})
        self._max_pixels = max_pixels
        self._publisher = Publisher(store, artifacts, outputs)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Key of a file → the task that makes it."""
        self._turns = Turns(CONCURRENT_CONVERSIONS, 1)

    async def find_file(self, job: Job, variant: str, form: Form) -> str:
        """Return the key of a result in a format; it is converted if it is not there yet.

        Concurrent calls for the same file share one conversion, which is not stopped if a caller is cancelled.

        Args:
            job: the job.
            variant: a result of the job that is complete, a video or a picture.
            form: the format; one of `list_formats`.

        Raises:
            InvalidParameter: the result does not exist in this format.
            LimitExceeded: the video is too long or too large to be converted.
            NotFound: the job has been deleted.
            StorageFailed: the file cannot be written.
            ServiceBusy: other files are being converted.
        """
        source = str(job.results[variant])
        check_format(source, variant, form)
        if STORED[source.rpartition(".")[2]] == form:
            return source
        key = f"videos/{job.id}/formats/{variant}.{_choose_extension(source, form)}"
        try:
            await asyncio.to_thread(self._artifacts.get_size, key)
        except NotFound:
            task = self._tasks.get(key)
            if task is None:
                task = self._tasks[key] = asyncio.create_task(self._make_file(job, variant, form, key))
                task.add_done_callback(lambda done: self._forget(key, done))
            await asyncio.shield(task)
        return key

    def _forget(self, key: str, task: "asyncio.Task[None]") -> None:
        del self._tasks[key]
        if not task.cancelled():
            task.exception()  # marks it as seen: there may be no caller left

    async def _make_file(self, job: Job, variant: str, form: Form, key: str) -> None:
        draft = await asyncio.to_thread(self._artifacts.create_draft)
        try:
            async with self._turns.take(job.owner, self._limits.turn_wait_s):
                await self._convert(job, variant, form, draft)
                await self._publisher.mark_file(job.id, variant, draft, key.rpartition(".")[2])
            # Another server may have made it meanwhile; signatures differ, and clients may have parts of that one.
            await asyncio.to_thread(self._artifacts.put_new_file, key, draft)
        except OSError as error:
            raise StorageFailed(f"converting to {form} failed: {error.strerror or type(error).__name__}") from error
        finally:
            await asyncio.to_thread(draft.unlink, missing_ok=True)
        try:
            await asyncio.to_thread(self._store.get_job, job.id)
        except NotFound:  # its files may have been removed just before
            await asyncio.to_thread(self._artifacts.remove, f"videos/{job.id}")
            raise

    async def _convert(self, job: Job, variant: str, form: Form, target: Path) -> None:
        if form == "png" and variant == VIDEO and "frames" in job.results:
            await self._write_kept_frames(job, target)
            return
        source = str(job.results[variant])
        async with self._artifacts.open_local(self._artifacts.get_url(source)) as path:
            if source.endswith(".mp4"):
                animation, most = cast("AnimationFormat", form), self._max_pixels
                limits, owner = self._limits, job.owner
                await convert_video(path, animation, target, max_pixels=most, limits=limits, owner=owner)
            else:
                data = await asyncio.to_thread(convert_picture, path, cast("PictureFormat", form))
                await asyncio.to_thread(target.write_bytes, data)

    async def _write_kept_frames(self, job: Job, target: Path) -> None:
        """Write the zip archive of the frames that are stored losslessly, with the label that people see."""
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=True)
        with await asyncio.to_thread(target.open, "wb") as file:
            async for chunk in stream_zip(self._artifacts, stills, with_names=False):
                await asyncio.to_thread(file.write, chunk)
        if self._publisher.outputs.label is not None:
            await asyncio.to_thread(change_pictures, target, self._publisher.outputs.draw_label_on_png)


def list_formats(key: str) -> tuple[str, ...]:
    """Return the formats in which a stored video or picture can be had."""
    return get_args(VideoFormat if key.endswith(".mp4") else PictureFormat)


def check_format(key: str, variant: str, form: str) -> None:
    """Raise InvalidParameter if a stored video or picture cannot be had in a format."""
    formats = list_formats(key)
    if form not in formats:
        message = f"format: must be one of {', '.join(formats)} with variant={variant}, got {form!r}"
        raise InvalidParameter(message, param="format")


def _choose_extension(source: str, form: Form) -> str:
    if form == "png" and source.endswith(".mp4"):
        return "zip"
    return "jpg" if form == "jpeg" else form
