"""From files on this disk to a video on this disk: upload, order, watch, download."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from clients.client import Client
from clients.errors import ClientError, JobFailed
from clients.fields import SamplingFields, VideoFields
from clients.objects import File, Video
from clients.progress import Display


@dataclass(frozen=True)
class Order:
    """What is wanted."""

    model: str
    media: Mapping[str, Path]
    """Media field → file on this disk."""
    fields: SamplingFields
    target: Path
    """Where the video goes."""


def carry_out(client: Client, order: Order, display: Display) -> Video:
    """Return the video once it lies at its target. Interrupted, it stops the job on the server before it leaves.

    Raises:
        JobFailed, ClientError, OSError, KeyboardInterrupt.
    """
    sent = {field: upload(client, path, display).id for field, path in order.media.items()}
    fields = cast("VideoFields", {**order.fields, **sent})
    video = client.videos.create(model=order.model, **fields)
    try:
        display.note(f"job {video.id}")
        video = watch(client, video.id, display)
    except KeyboardInterrupt:
        display.note(_cancel(client, video.id))
        raise
    fetch(client, video.id, order.target, display)
    return video


def upload(client: Client, path: Path, display: Display, purpose: str = "user_data") -> File:
    """Send a file."""
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


def fetch(client: Client, video_id: str, target: Path, display: Display, variant: str | None = None) -> Path:
    """Put a result where it is wanted."""
    with display.transfer(f"download {target.name}") as show:
        return client.videos.download(video_id, target, variant=variant, on_progress=show)


def _cancel(client: Client, video_id: str) -> str:
    try:
        client.videos.cancel(video_id)
    except ClientError as error:
        return f"could not cancel {video_id} on the server: {error}"
    return f"cancelled {video_id} on the server"
