"""Reads and writes video files."""

from pathlib import Path

import av
import numpy as np

from miniatures.world import RATE, Pixels


def read(path: Path) -> Pixels:
    """Return all frames of a video, or a picture as one frame: (frames, height, width, 3) uint8 RGB. Raises OSError."""
    try:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.FFmpegError, IndexError) as error:
        raise OSError(f"{path}: not a readable video or picture ({error})") from error


def write(path: Path, frames: Pixels, rate: int = RATE) -> None:
    """Write frames as H.264 in 4:2:0, the format of cameras and browsers, at a nearly lossless quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10", "preset": "veryslow"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
