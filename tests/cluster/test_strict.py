"""A server with keys, small limits, short leases and no marks: intruders are rejected, interrupted jobs are resumed."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from composition.media.decoding.lifeline import LOW_PRIORITY
from composition.media.marks.settings import MARKS_OFF
from tests.cluster.conftest import check_error, create_video, fetch_content, wait_for_end, wait_for_stage
from tests.cluster.server import CLIP, Server
from tests.composition import sample_media as media
from tests.composition.albums import numbered
from tests.composition.http.test_upload_turns import read_nice
from tests.composition.media.hostile import make_slow_video
from tests.waiting import until

pytestmark = pytest.mark.cluster

JOB: dict[str, Any] = {"num_frames": 49, "steps": 12, "max_area": 192 * 112, "seed": 11}
"""Long enough to be interrupted in the middle."""
SLOW_FRAMES = 30_000
"""Frames of a slow file, of 1280x720: it takes several seconds of processor time."""


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Server]:
    limits = {"max_body_bytes": 2 << 20, "max_queued_jobs": 20, "lease_s": 3.0, "concurrency": 2, "auth": "keys"}
    made = Server(
        tmp_path_factory.mktemp("strict"), untrained, ("v2v",), marks=MARKS_OFF.model_dump(mode="json"), **limits
    )
    made.add_key("ann")
    made.add_key("bob")
    made.start()
    yield made
    made.kill()


def test_a_body_without_length_is_stopped_at_the_limit(strict: Server) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(4096):
            yield b"\0" * 65536

    with strict.client() as http:
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        check_error(http.post("/v1/files", content=endless(), headers=kind), 413, None, "2097152")
        assert http.get("/healthz").status_code == 200
        assert list((strict.home / "artifacts").rglob("file_*")) == []


def test_two_hundred_jobs_at_once(strict: Server, tmp_path: Path) -> None:
    with strict.client() as http:
        with media.one_frame(tmp_path).open("rb") as file:
            clip = http.post("/v1/files", files={"file": file}).json()["id"]
        asked = {"model": "v2v", "input_video": clip, "prompt": "x", "num_frames": 1, "steps": 1, "max_area": 1024}
        answers = [http.post("/v1/videos", json=asked) for _ in range(200)]
        codes = {answer.status_code for answer in answers}
        assert codes <= {200, 429}
        full = [answer for answer in answers if answer.status_code == 429]
        assert full
        check_error(full[0], 429, None, "limit is 20")
        assert full[0].headers["retry-after"]
        for answer in answers:
            if answer.status_code == 200:
                assert wait_for_end(http, answer.json()["id"])["status"] == "completed"


def test_keys_are_needed_and_keep_owners_apart(strict: Server, tmp_path: Path) -> None:
    with httpx.Client(base_url=strict.url) as anonymous:
        check_error(anonymous.get("/v1/videos"), 401, None, "API key")
        assert anonymous.get("/healthz").status_code == 200
        wrong = anonymous.get("/v1/videos", headers={"Authorization": "Bearer rg-wrong"})
        check_error(wrong, 401, None, "not valid")
    with strict.client("ann") as ann, strict.client("bob") as bob:
        with media.one_frame(tmp_path).open("rb") as file:
            clip = ann.post("/v1/files", files={"file": file}).json()["id"]
        check_error(bob.get(f"/v1/files/{clip}"), 404, "id")
        check_error(bob.post("/v1/videos", json={"model": "v2v", "input_video": clip}), 404, "input_video", clip)
        video_id = create_video(ann, input_video=clip, prompt="x")["id"]
        for answer in (
            bob.get(f"/v1/videos/{video_id}"),
            bob.get(f"/v1/videos/{video_id}/content"),
            bob.get(f"/v1/videos/{video_id}/events"),
            bob.post(f"/v1/videos/{video_id}/cancel"),
            bob.delete(f"/v1/videos/{video_id}"),
        ):
            check_error(answer, 404, "id")
        assert bob.get("/v1/videos").json()["data"] == []
        assert wait_for_end(ann, video_id)["status"] == "completed"


async def test_a_small_picture_overtakes_the_slow_files_of_another_owner(strict: Server) -> None:
    """And a client that leaves takes its decoder with it."""
    slow = make_slow_video(SLOW_FRAMES, size=(1280, 720))
    with strict.client("ann") as ann, strict.client("bob") as bob:
        async with httpx.AsyncClient(base_url=strict.url, headers=ann.headers, timeout=None) as http:  # noqa: S113
            uploads = [asyncio.create_task(http.post("/v1/files", files={"file": slow})) for _ in range(4)]
            lowered = partial(list_decoders, strict, LOW_PRIORITY)
            await asyncio.to_thread(until, lowered, what="the turn of a slow file")
            answer = await asyncio.to_thread(bob.post, "/v1/files", files={"file": numbered(3)})
            assert answer.status_code == 200, answer.text
            assert not any(upload.done() for upload in uploads)
            for upload in uploads:
                upload.cancel()
            await asyncio.wait(uploads)
        await asyncio.to_thread(until, lambda: not list_decoders(strict), what="the end of the decoders")


def list_decoders(server: Server, priority: int | None = None) -> list[psutil.Process]:
    """Return the decoder processes of the front door, those of one nice value if it is given."""
    prepared = [child for replica in server.replicas("front") for child in replica.children()]
    decoders = [decoder for process in prepared for decoder in process.children()]
    return decoders if priority is None else [decoder for decoder in decoders if read_nice(decoder) == priority]


def test_after_a_power_cut_every_job_goes_on(strict: Server) -> None:
    with strict.client() as http:
        clip = http.post("/v1/files", files={"file": CLIP.open("rb")}).json()["id"]
        alone = wait_for_end(http, create_video(http, input_video=clip, **JOB)["id"])
        assert alone["status"] == "completed", alone
        undisturbed = fetch_content(http, alone["id"])
        assert not any(mark in undisturbed for mark in (b"jumb", b"xmpmeta", b"AIGC")), "marks are off"
        running = [create_video(http, input_video=clip, **JOB)["id"] for _ in range(2)]
        waiting = [create_video(http, input_video=clip, **JOB)["id"] for _ in range(2)]
        wait_for_stage(http, running[0], "denoise")
    strict.kill()
    strict.start()
    with strict.client() as http:
        for video_id in running + waiting:
            video = wait_for_end(http, video_id)
            assert video["status"] == "completed", video
            assert fetch_content(http, video_id) == undisturbed
