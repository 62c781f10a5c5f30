"""The table of a video's frames: scores, signals and faults, as CSV and JSON."""

import csv
import io
import time
from collections.abc import AsyncGenerator
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from composition.http.content import SCORES, SIGNALS
from composition.http.ingress import Ingress, IngressSettings
from composition.jobs.recorder import Output, Recorder
from composition.records.artifacts import Artifacts
from composition.records.store import Lease
from composition.records.tables import Job
from services.frames import Frames, Scores
from tests.composition.deployed import TRANSPORT, Cluster
from tests.composition.media.test_signals import draw_pan

JOB, CONTENT = "video_a", "/v1/videos/video_a/content"
RATE = Fraction(16)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture
async def http(cluster: Cluster) -> AsyncGenerator[httpx.AsyncClient]:
    settings = IngressSettings(database=cluster.url, artifacts=cluster.where, auth="none")
    transport = httpx.ASGITransport(Ingress(settings, cluster.served, TRANSPORT).build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def begin(cluster: Cluster, model: str = "v2v", **columns: Any) -> Lease:
    fields: dict[str, Any] = {"params": {}, "media": {}, "created_at": time.time(), **columns}
    cluster.store.create_job(Job(id=JOB, owner="", model=model, **fields), 9)
    job = cluster.store.claim_job(60)
    assert job
    return Lease(job.id, job.fence)


def open_recorder(cluster: Cluster, lease: Lease, output: Output) -> Recorder:
    return Recorder(cluster.store, Artifacts(cluster.where), lease, output)


async def read_rows(http: httpx.AsyncClient) -> list[dict[str, str]]:
    answer = await http.get(CONTENT, params={"variant": "metrics"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8"), answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_every_video_has_a_table_of_its_frames(cluster: Cluster, http: httpx.AsyncClient) -> None:
    lease = begin(cluster)
    recorder = open_recorder(cluster, lease, Output())
    pixels = draw_pan(20)
    pixels[9:16] = pixels[9]
    pixels[19] = 0
    await recorder.take(Frames(pixels[:16], 0, RATE))
    begun = await read_rows(http)
    assert [row["frame"] for row in begun] == [str(index) for index in range(8)], "the frames of the first segment"
    await recorder.take(Frames(pixels[16:], 16, RATE))
    await recorder.finish()
    rows = await read_rows(http)
    assert list(rows[0]) == ["frame", *SIGNALS]
    assert [(int(row["frame"]), row["flags"]) for row in rows if row["flags"]] == [
        *((index, "frozen") for index in range(9, 16)),
        (19, "flat"),
    ]
    assert (rows[0]["change"], rows[0]["residual"]) == ("", "")
    assert float(rows[1]["change"]) > 1
    assert float(rows[4]["brightness"]) == pytest.approx(pixels[4].mean(), abs=3)
    assert (rows[19]["brightness"], rows[19]["contrast"]) == ("0.0", "0.0")
    whole = (await http.get(CONTENT, params={"variant": "metrics", "format": "json"})).json()
    assert (whole["video"], whole["facts"]["signals"], whole["others"]) == (JOB, "frozen 9-15; flat 19", {})
    for row, item in zip(rows, whole["frames"], strict=True):
        assert row["flags"] == " ".join(item["flags"])
        assert row["change"] == ("" if item["change"] is None else repr(item["change"]))


async def test_scores_stand_beside_the_signals(cluster: Cluster, http: httpx.AsyncClient) -> None:
    """The last frame is stored as a picture, and not in a segment yet."""
    lease = begin(cluster, "rolling-edit")
    recorder = open_recorder(cluster, lease, Output(keeps_frames=True, segments=(2, 3)))
    pixels = draw_pan(6)
    for index in range(6):
        scores = Scores(index, edge_loss=index / 8) if index else None
        await recorder.take(Frames(pixels[index : index + 1], index, RATE), scores)
    rows = await read_rows(http)
    assert list(rows[0])[: len(SCORES) + 1] == ["frame", *SCORES]
    assert [row["edge_loss"] for row in rows] == ["", "0.125", "0.25", "0.375", "0.5", "0.625"]
    assert [bool(row["brightness"]) for row in rows] == [True] * 5 + [False]
    whole = (await http.get(CONTENT, params={"variant": "metrics", "format": "json"})).json()
    assert [item["flags"] for item in whole["frames"]] == [[], [], [], [], [], None]


async def test_a_second_video_has_its_own_table(cluster: Cluster, http: httpx.AsyncClient) -> None:
    lease = begin(cluster, "full-pipeline", main="hd", params={"animate": {}})
    pixels = draw_pan(4)
    for output in (Output(main=False), Output(variant="hd")):
        recorder = open_recorder(cluster, lease, output)
        await recorder.take(Frames(np.minimum(pixels, 100 if output.main else 255), 0, RATE))
        await recorder.finish()
    whole = (await http.get(CONTENT, params={"variant": "metrics", "format": "json"})).json()
    assert list(whole["others"]) == ["video"]
    assert whole["frames"][0]["brightness"] < whole["others"]["video"][0]["brightness"]


async def test_a_job_without_a_video_has_no_table(cluster: Cluster, http: httpx.AsyncClient) -> None:
    begin(cluster)
    answer = await http.get(CONTENT, params={"variant": "metrics"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "variant")
    assert "no frame has been measured yet" in answer.json()["error"]["message"]
