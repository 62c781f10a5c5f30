"""What the server of the client's tests tells and gives out, made of our server's own classes."""

import io
import zipfile
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from composition.http.schemas import CompletedImage, ImageProgress, ModelObject, PartialImage
from composition.media.marks.report import (
    Manifest,
    MarkedAction,
    MarkedIngredient,
    MarkedLabels,
    MarkedLora,
    MarkedModel,
    MarksReport,
)
from composition.media.marks.vocabulary import COMPOSITE
from composition.records.events import (
    FactEvent,
    FrameEvent,
    FrameScoresObject,
    JobEvent,
    ProgressEvent,
    ScoresObject,
    SegmentEvent,
    StageEvent,
    StageObject,
    StatusEvent,
    TextEvent,
    TryEvent,
    VideoError,
)

Told = tuple[str, dict[str, Any]]
"""An event as it is sent: its name and its data."""

CONTENT = bytes(range(256)) * 8
THUMBNAIL = b"\xff\xd8thumbnail"
CAPTION = "a red ball [/b] rolls\u2028slowly"


def tell(event: JobEvent | ImageProgress | PartialImage | CompletedImage) -> Told:
    """Return an event as it is sent, without what it leaves out."""
    return event.KIND, event.model_dump(mode="json", exclude_unset=True)


STAGE = StageObject(
    name="describe", model="internvl", source="path:tiny", revision="1", replica="internvl#1 cpu", seconds=0.5
)
STORY: list[Told] = [
    tell(StatusEvent(status="queued")),
    tell(StatusEvent(status="in_progress")),
    tell(FactEvent(name="seed", value=7)),
    tell(TextEvent(stage="describe", piece="a red ball [/b] ")),
    tell(TextEvent(stage="describe", piece="rolls\u2028slowly")),
    tell(StageEvent(**STAGE.model_dump())),
    ("tomorrow", {"what": "a kind of event that is newer than the client"}),
    tell(ProgressEvent(stage="denoise", done=1, total=2)),
    tell(ProgressEvent(stage="denoise", done=2, total=2, preview="data:image/jpeg;base64,/9g=")),
    tell(SegmentEvent(index=0, first=0, frames=5, frames_done=5, frames_total=5)),
    tell(StatusEvent(status="completed")),
]
SCORES = ScoresObject(edge_loss=0.52, gram_loss=0.001234, temporal_loss=None, lpips_to_init=0.25, lpips_to_prev=0.5)
FRAME_SCORES = FrameScoresObject(**SCORES.model_dump(), seed=9, tries=2, passed=True)
EDIT_STORY: list[Told] = [
    tell(StatusEvent(status="in_progress")),
    tell(FrameEvent(index=0, frames_done=1, frames_total=3, scores=None)),
    tell(ProgressEvent(stage="edit", done=4, total=4)),
    tell(TryEvent(index=1, scores=FrameScoresObject(edge_loss=0.9, seed=8, tries=1, passed=False))),
    tell(FrameEvent(index=1, frames_done=2, frames_total=3, scores=FRAME_SCORES)),
    tell(SegmentEvent(index=0, first=0, frames=1, frames_done=1, frames_total=3)),
    tell(
        FrameEvent(
            index=2, frames_done=3, frames_total=3, scores=FrameScoresObject(edge_loss=0.5, tries=3, passed=False)
        )
    ),
    tell(StatusEvent(status="completed")),
]
FRAMES = {f"{index:06}.png": b"frame %d" % index * 1000 for index in range(3)}
DEBUG = {"000001-soft_edges.png": b"soft", "000002-target_edges.png": b"target"}
CSV = b"frame,edge_loss\r\n1,0.52\r\n2,0.5\r\n"
TABLE = b'[{"frame": 1, "edge_loss": 0.52}, {"frame": 2, "edge_loss": 0.5}]'
HD = CONTENT[::-1]
EDITED = b"\x89PNG edited"
PAINTED = b"\x89PNG painted"
CROP = b"\x89PNG face"
IDENTITY: dict[str, Any] = {
    "embedding": [(-1) ** number * 0.044194173824159216 for number in range(512)],
    "keypoints": [[0.396, 0.197], [0.484, 0.201], [0.44, 0.25], [0.4, 0.3], [0.48, 0.302]],
    "box": [0.351, 0.113, 0.531, 0.34],
    "size": [512, 512],
}
MODELS = [
    ModelObject(
        id="v2v",
        kind="graph",
        roles=["describe", "image-to-video"],
        ready=False,
        state="HEALTHY",
        fields={"steps": {"type": "integer", "default": 8, "maximum": 50}},
    ),
    ModelObject(id="wan-5b", kind="wan", roles=["image-to-video"], ready=True, state="HEALTHY"),
    ModelObject(id="svd", kind="svd", roles=["image-to-video"], ready=False, state="UPDATING"),
]
MARKS = MarksReport(
    manifest=Manifest(
        state="valid",
        failures=["signingCredential.untrusted"],
        issuer="Somebody\x1b[31m",
        generated_at="2026-08-02T12:30:15Z",
        generator="reelgraph 9.9",
        digital_source_type=COMPOSITE,
        provider="Example",
        content_id="video_1/video",
        seed=0,
        models=[MarkedModel(stage="animate", model="wan", source="owner/weights", revision="abc")],
        loras=[MarkedLora(name="ink", sha256="cccc")],
        prompts={"prompt": "a fox"},
        actions=[MarkedAction(action="c2pa.opened"), MarkedAction(action="c2pa.edited", digital_source_type=COMPOSITE)],
        ingredients=[
            MarkedIngredient(title="input_video", format="video/mp4", relationship="parentOf"),
            MarkedIngredient(title="photo", format="image/jpeg", state="trusted", issuer="Camera"),
        ],
    ),
    labels=MarkedLabels(
        source_type=COMPOSITE,
        system="reelgraph",
        system_version="9.9",
        aigc={"Label": "1", "ContentProducer": "Example", "ProduceID": ""},
    ),
)
FAILURE = tell(StatusEvent(status="failed", error=VideoError(code="model_failed", message="out of memory")))


def painting(n: int) -> list[Told]:
    """What a stream of `n` pictures of two steps tells."""
    story: list[Told] = []
    for index in range(n):
        steps = range(2 * index + (index > 0), 2 * index + 3)
        story += [tell(ImageProgress(stage="paint", done=done, total=2 * n)) for done in steps]
        at: dict[str, Any] = {"size": "64x48", "index": index, "n": n}
        preview = PartialImage(b64_json=b64encode(b"%d" % index).decode(), partial_image_index=0, **at)
        facts = {"seed": 7, "notice": "the face is small"}
        data = b64encode(PAINTED + b"%d" % index).decode()
        story.append(tell(preview))
        story.append(("image_generation.tomorrow", {"what": "a kind of event that is newer than the client"}))
        story.append(tell(CompletedImage(b64_json=data, seed=7 + index, facts=facts, **at)))
    return story


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of these files, under these names. It has no times, so that equal files give equal bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()
