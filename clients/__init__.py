"""The client: `Client` and `AsyncClient` over HTTP, `Graphs` over Ray, their response objects and errors."""

from typing import TYPE_CHECKING

from reelgraph.client import AsyncClient, Client
from reelgraph.errors import (
    ApiError,
    ClientError,
    ConnectionLost,
    JobFailed,
    LocalServerFailed,
    ServerUnreachable,
    UnexpectedAnswer,
    WaitTimedOut,
)
from reelgraph.flows import Backoff
from reelgraph.objects import (
    C2paResult,
    Child,
    CompletedImage,
    ContentProvenanceCheck,
    Crop,
    Deleted,
    EditedImage,
    Event,
    Face,
    FactEvent,
    File,
    FrameEvent,
    FrameScores,
    Identity,
    ImageEvent,
    ImageProgress,
    ImagesResponse,
    Manifest,
    MarkedAction,
    MarkedIngredient,
    MarkedLabels,
    MarkedLora,
    MarkedModel,
    Model,
    Page,
    PartialImage,
    ProgressEvent,
    ResultEvent,
    Scores,
    SegmentEvent,
    ShownImage,
    StageEvent,
    StageRecord,
    StatusEvent,
    TextEvent,
    TryEvent,
    Video,
    VideoError,
    VideoFacts,
)

if TYPE_CHECKING:
    from reelgraph.handles import Graphs

__all__ = [
    "ApiError",
    "AsyncClient",
    "Backoff",
    "C2paResult",
    "Child",
    "Client",
    "ClientError",
    "CompletedImage",
    "ConnectionLost",
    "ContentProvenanceCheck",
    "Crop",
    "Deleted",
    "EditedImage",
    "Event",
    "Face",
    "FactEvent",
    "File",
    "FrameEvent",
    "FrameScores",
    "Graphs",
    "Identity",
    "ImageEvent",
    "ImageProgress",
    "ImagesResponse",
    "JobFailed",
    "LocalServerFailed",
    "Manifest",
    "MarkedAction",
    "MarkedIngredient",
    "MarkedLabels",
    "MarkedLora",
    "MarkedModel",
    "Model",
    "Page",
    "PartialImage",
    "ProgressEvent",
    "ResultEvent",
    "Scores",
    "SegmentEvent",
    "ServerUnreachable",
    "ShownImage",
    "StageEvent",
    "StageRecord",
    "StatusEvent",
    "TextEvent",
    "TryEvent",
    "UnexpectedAnswer",
    "Video",
    "VideoError",
    "VideoFacts",
    "WaitTimedOut",
]


def __getattr__(name: str) -> object:
    """Import `Graphs` at its first use, because it needs Ray and the server's code. Raises ImportError without them."""
    if name != "Graphs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reelgraph.handles import Graphs

    return Graphs
