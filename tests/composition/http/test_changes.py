"""What the decoder changes in the media of a request is told in the record and in the response."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from composition.graphs.inputs import Media
from composition.graphs.request import apply_background
from composition.graphs.run import GraphSettings
from composition.graphs.single.request import FilmJob, UpscaleJob
from composition.http.changes import merge_changes, set_background
from composition.media.limits import MediaLimits
from composition.records.artifacts import ArtifactSettings
from tests.composition.deployed import Cluster, Hosted
from tests.composition.painting import front_door, open_door
from tests.composition.serving import EditService

FILES = Path(__file__).parents[2] / "data" / "media"
HLG = {"tone_mapped": "hlg", "colours": "bt2020"}
MODELS = ("internvl", "wan", "qwen-edit", "realesrgan", "hunyuan-dit")


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    cluster = Cluster(tmp_path).host_models({kind: Hosted(kind) for kind in MODELS})
    api = open_door(cluster.host_graphs("v2v", "rolling-edit", "single")).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        yield client


async def find_facts(http: httpx.AsyncClient, files: dict[str, str], **fields: str) -> dict[str, Any]:
    """Create a job with files, and return the facts of its record."""
    sent = {field: (name, (FILES / name).read_bytes()) for field, name in files.items()}
    created = await http.post("/v1/videos", data=fields, files=sent)
    assert created.status_code == 200, created.text
    return (await http.get(f"/v1/videos/{created.json()['id']}")).json()["facts"]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("hlg.mov", HLG),
        ("pq.mp4", {"tone_mapped": "pq", "colours": "bt2020"}),
        ("bt2020sdr_true.mp4", {"colours": "bt2020"}),
        ("sar2.mp4", {"pixel_aspect": "2:1"}),
        ("sar_circle.mp4", {"pixel_aspect": "2:1"}),
        ("alpha_vp9.webm", {"alpha": "on white"}),
        ("alpha_prores.mov", {"alpha": "on white"}),
        ("wide.mp4", {}),
    ],
)
async def test_the_record_of_a_job_tells_what_was_changed(
    http: httpx.AsyncClient, name: str, facts: dict[str, str]
) -> None:
    for model in ("v2v", "realesrgan"):
        found = await find_facts(http, {"input_video": name}, model=model)
        assert facts.items() <= found.items()
        assert not {"tone_mapped", "colours", "pixel_aspect", "alpha"} & (found.keys() - facts.keys())


async def test_an_upload_tells_what_will_be_changed(http: httpx.AsyncClient) -> None:
    sent = {"file": ("p3.jpg", (FILES / "p3.jpg").read_bytes())}
    assert (await http.post("/v1/files", files=sent)).json()["changes"] == {"colours": "icc: Display P3 test"}


async def test_a_request_chooses_the_background(http: httpx.AsyncClient) -> None:
    video = {"input_video": "alpha_vp9.webm"}
    assert (await find_facts(http, video, model="realesrgan", background="#20C060"))["alpha"] == "on #20c060"
    assert (await find_facts(http, video, model="v2v", background="Black"))["alpha"] == "on black"
    refused = await http.post("/v1/videos", json={"model": "v2v", "input_video": "file_x", "background": "pink"})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "background"
    assert "must be #rrggbb, or one of aqua, black" in refused.json()["error"]["message"]
    assert "background" not in FilmJob.model_fields  # it has no media


async def test_a_picture_that_keeps_its_alpha_is_not_composited(http: httpx.AsyncClient) -> None:
    assert "alpha" not in await find_facts(http, {"image": "rgba.png"}, model="realesrgan")
    edited = await find_facts(http, {"image": "rgba.png"}, model="qwen-edit", prompt="a boat")
    assert edited["alpha"] == "on white"


async def test_changes_of_several_files_are_told_by_field(http: httpx.AsyncClient) -> None:
    files = {"image": "rgba.png", "edges": "p3.png"}
    facts = await find_facts(http, files, model="qwen-edit")
    assert (facts["alpha"], facts["colours"]) == ("on white", "icc: Display P3 test")


def test_values_that_differ_are_listed() -> None:
    first, second = {"tone_mapped": "hlg", "deinterlaced": True}, {"tone_mapped": "pq", "deinterlaced": True}
    merged = merge_changes({"rgb_video": first, "edge_video": second, "face": {}})
    assert merged == {"tone_mapped": "rgb_video: hlg; edge_video: pq", "deinterlaced": True}
    assert set_background({"alpha": "on white"}, "black") == {"alpha": "on black"}
    assert set_background(first, "black") == first
    assert merge_changes({"image": {"alpha": "on white"}}, {"image"}) == {}


async def test_a_graph_reads_media_on_the_background_of_the_request() -> None:
    request = UpscaleJob(image="x", background="#20c060")
    limits = apply_background(MediaLimits(), request)
    settings = GraphSettings(artifacts=ArtifactSettings(url="file:///tmp"), media=limits)
    shown = (await Media(settings).read_picture(str(FILES / "rgba.png"))).pixels[0]
    assert (shown[-1, -1] == (0x20, 0xC0, 0x60)).all()
    assert apply_background(limits, UpscaleJob(image="x")) == limits


@pytest.mark.parametrize(
    ("background", "alpha", "corner"),
    [
        (None, "on white", (255, 255, 255)),
        ("auto", "on white", (255, 255, 255)),
        ("opaque", "on white", (255, 255, 255)),
        ("navy", "on navy", (0, 0, 128)),
        ("#20c060", "on #20c060", (0x20, 0xC0, 0x60)),
    ],
)
async def test_an_edit_of_a_transparent_picture(
    tmp_path: Path, background: str | None, alpha: str, corner: tuple[int, int, int]
) -> None:
    service = EditService()
    api = front_door(tmp_path, Hosted("qwen-edit", service)).build_app()
    fields = {"prompt": "a boat", **({} if background is None else {"background": background})}
    files = [("image[]", (name, (FILES / name).read_bytes())) for name in ("rgba.png", "p3.jpg")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        answer = await client.post("/v1/images/edits", data=fields, files=files)
    assert answer.status_code == 200, answer.text
    facts = answer.json()["facts"]
    assert (facts["alpha"], facts["colours"]) == (alpha, "icc: Display P3 test")
    assert np.array_equal(service.asked[0].image.pixels[0, -1, -1], corner)


@pytest.mark.parametrize("background", ["transparent", "pink", "#12"])
async def test_backgrounds_that_an_edit_refuses(tmp_path: Path, background: str) -> None:
    api = front_door(tmp_path, Hosted("qwen-edit", EditService())).build_app()
    files = {"image": ("rgba.png", (FILES / "rgba.png").read_bytes())}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        answer = await client.post("/v1/images/edits", data={"prompt": "x", "background": background}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "background")
