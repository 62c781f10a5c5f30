"""Small finished files of each format, and what their marks say."""

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from composition.media.marks.provenance import Ingredient, ModelUse, Provenance
from composition.media.marks.vocabulary import MarkedFormat

CREATED_AT = datetime(2026, 8, 2, 12, 30, 15, tzinfo=UTC)
PROVENANCE = Provenance(
    content_id="video_0123456789abcdef/video",
    created_at=CREATED_AT,
    task="v2v",
    models=(ModelUse("animate", "wan", "reelgraph/miniature-wan", "0123abcd"),),
    seed=7,
    prompts={"prompt": 'a "red" <bus> & a dog'},
)
COMPOSITE = Provenance(
    content_id="image_0123456789abcdef",
    created_at=CREATED_AT,
    task="flux",
    ingredients=(Ingredient("image", Path("person.png")),),
)
SIZE = 48, 32
Writer = Mapping[str, Any]
PICTURES: Mapping[str, tuple[MarkedFormat, str, Writer]] = {
    "png": ("png", "RGB", {}),
    "png with alpha": ("png", "RGBA", {}),
    "png with a palette": ("png", "P", {}),
    "animated png": ("png", "RGB", {"save_all": True}),
    "jpeg": ("jpeg", "RGB", {"quality": 90}),
    "jpeg with exif": ("jpeg", "RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
    "progressive jpeg": ("jpeg", "RGB", {"progressive": True}),
    "lossy webp": ("webp", "RGB", {}),
    "lossy webp with alpha": ("webp", "RGBA", {}),
    "lossless webp": ("webp", "RGB", {"lossless": True}),
    "lossless webp with alpha": ("webp", "RGBA", {"lossless": True}),
    "animated webp": ("webp", "RGB", {"save_all": True}),
    "gif": ("gif", "P", {}),
    "animated gif": ("gif", "P", {"save_all": True, "loop": 0, "duration": 100}),
}
"""Kind of picture → its format, its mode, and how Pillow writes it."""
VIDEOS: Mapping[str, Mapping[str, str]] = {
    "mp4": {"movflags": "faststart"},
    "mp4 with its index last": {},
    "mp4 with metadata": {"movflags": "faststart+use_metadata_tags"},
}
"""Kind of video → options of FFmpeg's muxer."""
KINDS = (*PICTURES, *VIDEOS)


def form_of(kind: str) -> MarkedFormat:
    """Return the format of a kind of file."""
    return PICTURES[kind][0] if kind in PICTURES else "mp4"


def write_file(kind: str, folder: Path) -> Path:
    """Write a finished file of a kind."""
    path = folder / f"file.{form_of(kind)}"
    if kind in VIDEOS:
        write_video(path, VIDEOS[kind])
    else:
        path.write_bytes(make_picture(kind))
    return path


def make_picture(kind: str) -> bytes:
    """Return a picture or an animation of noise."""
    form, mode, options = PICTURES[kind]
    noise = np.random.default_rng(5)
    frames = [Image.fromarray(noise.integers(0, 256, (*SIZE[::-1], 4), np.uint8), "RGBA") for _ in range(3)]
    first, *rest = [frame.convert(mode) for frame in frames]
    buffer = io.BytesIO()
    more = {"append_images": rest} if options.get("save_all") else {}
    first.save(buffer, form, **options, **more)
    return buffer.getvalue()


def write_video(path: Path, options: Mapping[str, str] = VIDEOS["mp4"], *, frames: int = 12) -> None:
    """Write a video of noise, with a comment."""
    noise = np.random.default_rng(6)
    with av.open(str(path), "w", format="mp4", container_options=dict(options)) as container:
        container.metadata["comment"] = "kept"
        stream = container.add_stream("libx264", rate=Fraction(12), options={"crf": "30"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(frames):
            frame = VideoFrame.from_ndarray(noise.integers(0, 256, (*SIZE[::-1], 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
