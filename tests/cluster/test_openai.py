"""The unmodified `openai` client against our front door."""

import io
import warnings
from collections.abc import Iterator

import av
import openai
import pytest
from PIL import Image

from tests.cluster.server import CLIP, Server

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # OpenAI has ended its own video service
]

SMALL = {"num_frames": 9, "steps": 2, "max_area": 9216, "seed": 5}


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with warnings.catch_warnings(), openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused") as made:
        yield made


def test_create_with_a_file_and_own_fields(client: openai.OpenAI) -> None:
    with CLIP.open("rb") as file:
        video = client.videos.create(model="v2v", prompt="a meadow", input_reference=file, extra_body=SMALL)
    assert (video.object, video.status) == ("video", "queued")
    assert client.videos.poll(video.id).status == "completed"


def test_create_and_poll_retrieve_list_download_delete(client: openai.OpenAI) -> None:
    upload = client.files.create(file=CLIP.open("rb"), purpose="user_data")
    assert upload.status == "processed"
    video = client.videos.create_and_poll(
        model="v2v",
        prompt="",
        extra_body={**SMALL, "input_reference": {"file_id": upload.id}, "negative_prompt": "blurry"},
        poll_interval_ms=200,
    )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert video.model_extra
    assert video.model_extra["caption"]
    again = client.videos.retrieve(video.id)
    assert again.id == video.id
    assert again.seconds == "0.562"
    listed = client.videos.list(limit=1, order="desc")
    assert [one.id for one in listed.data] == [video.id]
    data = client.videos.download_content(video.id).read()
    with av.open(io.BytesIO(data), "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == 9
    assert client.videos.download_content(video.id, variant="thumbnail").read()[:2] == b"\xff\xd8"
    animation = client.videos.download_content(video.id, extra_query={"format": "gif"}).read()
    with Image.open(io.BytesIO(animation)) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("GIF", 9)
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert client.files.delete(upload.id).deleted


def test_a_video_says_that_it_was_generated(client: openai.OpenAI) -> None:
    with CLIP.open("rb") as file:
        video = client.videos.create_and_poll(model="v2v", prompt="a meadow", input_reference=file, extra_body=SMALL)
    data = client.videos.download_content(video.id).read()
    for content, expected in (
        (data, ("detected", "valid")),
        (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], ("not_detected", "invalid")),
        (CLIP.read_bytes(), ("not_detected", "not_present")),
    ):
        (result,) = client.content_provenance_checks.create(file=content).results
        assert result.type == "c2pa"
        assert (result.outcome, result.validation_state) == expected
    check = client.content_provenance_checks.create(file=data)
    assert check.model_extra
    manifest, labels = check.model_extra["manifest"], check.model_extra["labels"]
    assert "wan" in [use["model"] for use in manifest["models"]]
    assert (manifest["seed"], manifest["task"]) == (5, "v2v")
    assert [each["title"] for each in manifest["ingredients"]] == ["input_video"]
    assert labels["source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert labels["aigc"]["ProduceID"] == manifest["content_id"] == f"{video.id}/video.mp4"


def test_a_list_pages_through_all(client: openai.OpenAI) -> None:
    upload = client.files.create(file=CLIP.open("rb"), purpose="user_data")
    made = [
        client.videos.create(
            model="v2v", prompt="x", extra_body={**SMALL, "input_video": upload.id, "num_frames": 1}
        ).id
        for _ in range(3)
    ]
    seen = [video.id for video in client.videos.list(limit=2)]
    assert set(made) <= set(seen)
    assert len(seen) == len(set(seen))


def test_openais_seconds_and_size(client: openai.OpenAI) -> None:
    upload = client.files.create(file=CLIP.open("rb"), purpose="user_data")
    video = client.videos.create_and_poll(
        model="v2v",
        prompt="x",
        seconds="4",
        extra_body={"input_video": upload.id, "steps": 1, "size": "64x32"},
        poll_interval_ms=200,
    )
    assert video.status == "completed"
    assert video.size == "64x32"
    assert video.model_extra
    assert video.model_extra["frames_total"] == 65


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.videos.create(model="sora-9", prompt="x")
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.videos.download_content("video_none")
    assert {model.id for model in client.models.list()} >= {"v2v", "wan", "wan-i2v"}
