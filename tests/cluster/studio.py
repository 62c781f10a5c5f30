"""Small requests and their results, for the tests of the full pipeline and of the storyboard."""

import base64
import io
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.cluster.conftest import wait_for_end
from tests.cluster.server import ROOT
from tests.composition.beneath import read_beneath

FACE = ROOT / "tests" / "data" / "astronaut.png"
SMALL: dict[str, Any] = {
    "prompt": "a red fox in snow",
    "seed": 5,
    "size": "64x64",
    "steps": 2,
    "animate": {"num_frames": 6, "steps": 2, "max_area": 64 * 64},
    "upscale": {"scale": 2},
}


def create_small(http: httpx.Client, model: str = "full-pipeline", **fields: Any) -> str:
    """Create a small video and return its id."""
    answer = http.post("/v1/videos", json={"model": model, **SMALL, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def make_small(http: httpx.Client, model: str = "full-pipeline", **fields: Any) -> dict[str, Any]:
    """Create a small video, wait until it is completed, and return its record."""
    video = wait_for_end(http, create_small(http, model, **fields), 240)
    assert video["status"] == "completed", video
    return video


def fetch_result(http: httpx.Client, video_id: str, variant: str | None = None) -> bytes:
    answer = http.get(f"/v1/videos/{video_id}/content", params={"variant": variant} if variant else {})
    assert answer.status_code == 200, answer.text
    return answer.content


def decode_frames(data: bytes) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(data), "r") as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def mirror_face() -> bytes:
    """Return a second face: the mirror image of the first."""
    target = io.BytesIO()
    with Image.open(FACE) as picture:
        Image.fromarray(np.array(picture.convert("RGB"))[:, ::-1].copy()).save(target, "PNG")
    return target.getvalue()


def upload(http: httpx.Client, data: bytes | Path) -> str:
    data = data.read_bytes() if isinstance(data, Path) else data
    answer = http.post("/v1/files", files={"file": ("face.png", data)})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def paint_picture(http: httpx.Client, **fields: Any) -> object:
    """Generate a picture with Flux, and return what lies beneath its marks."""
    given = {"prompt": "a boat", "size": "64x64", "steps": 2, "seed": 3, **fields}
    answer = http.post("/v1/images/generations", json=given)
    assert answer.status_code == 200, answer.text
    return read_beneath(base64.b64decode(answer.json()["data"][0]["b64_json"]))


def list_stages(video: dict[str, Any]) -> list[str]:
    """Return the names of the stages in order, without repetitions by a second replica."""
    return list(dict.fromkeys(stage["name"] for stage in video["stages"]))
