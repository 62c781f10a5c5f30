"""From files on this disk to results on this disk: upload, order, watch, download."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from reelgraph.client import Client
from reelgraph.errors import ClientError, JobFailed
from reelgraph.fields import ContentOptions, VideoFields
from reelgraph.folders import drafts, unpack
from reelgraph.objects import File, Video
from reelgraph.progress import Display


@dataclass(frozen=True)
class Result:
    """One of a job's results, and where it goes."""

    target: Path
    """A file, or a folder for what the result's zip holds."""
    options: ContentOptions
    names: re.Pattern[str] | None = None
    """Of a folder: what the files in it are called."""


@dataclass(frozen=True)
class Order:
    """What is wanted."""

    model: str
    fields: Mapping[str, object]
    """Of the request. A path within one, however deep, is a file that is uploaded, once, and stands for its id."""
    results: Sequence[Result]

    @property
    def served(self) -> list[str]:
        """What a server must have for it: the graph or model that is asked, and the models chosen for its roles."""
        chosen = cast("Mapping[str, str]", self.fields.get("models") or {})
        return list(dict.fromkeys([self.model, *chosen.values()]))


def carry_out(client: Client, order: Order, display: Display) -> Video:
    """Return the video once its results lie at their targets. Interrupted, it stops the job on the server.

    Raises:
        JobFailed, ClientError, OSError, KeyboardInterrupt.
    """

    @cache
    def id_of(path: Path) -> str:
        return upload(client, path, display).id

    fields = cast("VideoFields", {name: _sent(value, id_of) for name, value in order.fields.items()})
    video = client.videos.create(model=order.model, **fields)
    try:
        display.note(f"job {video.id}")
        video = watch(client, video.id, display)
    except KeyboardInterrupt:
        display.note(_cancel(client, video.id))
        raise
    for result in order.results:
        fetch(client, video.id, result, display)
    return video


def upload(client: Client, path: Path, display: Display, purpose: str = "user_data") -> File:
    """Send a file, or a folder as a zip."""
    with display.transfer(f"upload {path.name}") as show:
        return client.files.upload(path, purpose=purpose, on_progress=show)


def watch(client: Client, video_id: str, display: Display) -> Video:
    """Show a job until it has ended and return the video. Raises JobFailed."""
    with display.watching() as show:
        for event in client.videos.events(video_id):
            show(event)
    video = client.videos.retrieve(video_id)
    if video.status == "failed":
        raise JobFailed(video)
    return video


def fetch(client: Client, video_id: str, result: Result, display: Display) -> None:
    """Put a result where it is wanted. It appears when it is whole."""
    with display.transfer(f"download {result.target.name}") as show:
        if result.names is None:
            client.videos.download(video_id, result.target, on_progress=show, **result.options)
            return
        with drafts(result.target) as draft:
            archive = client.videos.download(video_id, draft / "content.zip", on_progress=show, **result.options)
            unpack(archive, result.target, result.names)


def _sent(value: object, id_of: Callable[[Path], str]) -> object:
    """The same value, with ids in place of paths."""
    if isinstance(value, Path):
        return id_of(value)
    if isinstance(value, Mapping):
        return {name: _sent(inner, id_of) for name, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_sent(entry, id_of) for entry in cast("list[object]", value)]
    return value


def _cancel(client: Client, video_id: str) -> str:
    try:
        client.videos.cancel(video_id)
    except ClientError as error:
        return f"could not cancel {video_id} on the server: {error}"
    return f"cancelled {video_id} on the server"
