"""A first frame and edges from the shipped clip, in each form that the rolling edit accepts."""

import io
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from services.frames import Pixels
from tests.cluster.server import CLIP

WIDTH, HEIGHT = 128, 80
"""Size in pixels."""


def read_clip(count: int) -> Pixels:
    """Return every third frame: (count, HEIGHT, WIDTH, 3)."""
    with av.open(str(CLIP)) as container:
        frames = [frame for index, frame in enumerate(container.decode(video=0)) if index % 3 == 0][:count]
    return np.stack([frame.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for frame in frames]).astype(np.uint8)


def draw_edges(pixels: Pixels) -> Pixels:
    """Return the differences of each pixel to its right and lower neighbours: (n, h, w, 3)."""
    grey = pixels.mean(3)
    across, down = np.diff(grey, axis=2, append=grey[:, :, -1:]), np.diff(grey, axis=1, append=grey[:, -1:])
    edges = np.clip(4 * np.hypot(across, down), 0, 255).astype(np.uint8)
    return np.repeat(edges[..., None], 3, axis=3)


def encode_png(pixels: Pixels) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "png")
    return target.getvalue()


def zip_pictures(pixels: Pixels) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for index, picture in enumerate(pixels):
            archive.writestr(f"edges/e{index}.png", encode_png(picture))
    return target.getvalue()


def unzip_pictures(data: bytes) -> dict[str, Pixels]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: np.array(Image.open(archive.open(name)), np.uint8) for name in archive.namelist()}


def write_video(pixels: Pixels, path: Path) -> Path:
    """Write frames as H.264, which preserves them approximately."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(12), options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = pixels.shape[2], pixels.shape[1], "yuv420p"
        for picture in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())
    return path
