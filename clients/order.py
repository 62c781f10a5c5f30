"""Runs a job from local files to local results: upload, create, watch, download."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from reelgraph.client import Client
from reelgraph.errors import ClientError, JobFailed
from reelgraph.fields import ContentOptions, VideoFields
from reelgraph.folders import make_draft_folder, unzip_folder
from reelgraph.objects import File, Video
from reelgraph.progress import Display


@dataclass(frozen=True)
class Result:
    """A result of a job, and the file or folder to download it to."""

    target: Path
    """A file, or a folder into which the result, a zip archive, is extracted."""
    options: ContentOptions
    """Variant and format."""
    names: re.Pattern[str] | None = None
    """Pattern of the names of the files to extract, if `target` is a folder."""


@dataclass(frozen=True)
class JobOrder:
    """A job to run, and the results to download."""

    model: str
    """Graph, or id of a model."""
    fields: Mapping[str, object]
    """Fields of the request. A path in a value, at any depth, is uploaded once and replaced by the file's id."""
    results: Sequence[Result]

    @property
    def served(self) -> list[str]:
        """The graph or model, and the models chosen for roles: what the server must serve."""
        chosen = cast("Mapping[str, str]", self.fields.get("models") or {})
        return list(dict.fromkeys([self.model, *chosen.values()]))


def run_job(client: Client, order: JobOrder, display: Display) -> Video:
    """Run a job, download its results, and return the video. KeyboardInterrupt cancels the job on the server.

    Raises:
        JobFailed, ClientError, OSError, KeyboardInterrupt.
    """

    @cache
    def upload_once(path: Path) -> str:
        return upload_path(client, path, display).id

    fields = cast("VideoFields", {name: _replace_paths(value, upload_once) for name, value in order.fields.items()})
    video = client.videos.create(model=order.model, **fields)
    try:
        display.note(f"job {video.id}")
        video = follow_job(client, video.id, display)
    except KeyboardInterrupt:
        display.note(_cancel(client, video.id))
        raise
    for result in order.results:
        download_result(client, video.id, result, display)
    return video


def upload_path(client: Client, path: Path, display: Display, purpose: str = "user_data") -> File:
    """Upload a file, or a folder as a zip archive."""
    with display.show_transfer(f"upload {path.name}") as show:
        return client.files.upload(path, purpose=purpose, on_progress=show)


def follow_job(client: Client, video_id: str, display: Display) -> Video:
    """Show a job's progress until it has ended, and return the video. Raises JobFailed."""
    with display.show_job() as show:
        for event in client.videos.events(video_id):
            show(event)
    video = client.videos.retrieve(video_id)
    if video.status == "failed":
        raise JobFailed(video)
    return video


def download_result(client: Client, video_id: str, result: Result, display: Display) -> None:
    """Download a result to its target, where it appears when it is complete."""
    with display.show_transfer(f"download {result.target.name}") as show:
        if result.names is None:
            client.videos.download(video_id, result.target, on_progress=show, **result.options)
            return
        with make_draft_folder(result.target) as draft:
            archive = client.videos.download(video_id, draft / "content.zip", on_progress=show, **result.options)
            unzip_folder(archive, result.target, result.names)


def _replace_paths(value: object, upload: Callable[[Path], str]) -> object:
    """Return the value with each path replaced by the id that `upload` returns for it."""
    if isinstance(value, Path):
        return upload(value)
    if isinstance(value, Mapping):
        return {name: _replace_paths(inner, upload) for name, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_replace_paths(entry, upload) for entry in cast("list[object]", value)]
    return value


def _cancel(client: Client, video_id: str) -> str:
    try:
        client.videos.cancel(video_id)
    except ClientError as error:
        return f"could not cancel {video_id} on the server: {error}"
    return f"cancelled {video_id} on the server"
