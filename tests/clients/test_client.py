"""Both clients against a server, over sockets."""

import inspect
import io
import json
import os
import socket
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Blocking, Looping
from video_server import Script, VideoServer

from reelgraph import client as module
from reelgraph.errors import (
    ApiError,
    ConnectionLost,
    JobFailed,
    ServerUnreachable,
    UnexpectedAnswer,
    WaitTimedOut,
)
from reelgraph.fields import VideoFields
from reelgraph.objects import (
    FrameEvent,
    Model,
    ProgressEvent,
    SegmentEvent,
    StageEvent,
    StatusEvent,
    TextEvent,
)
from tests.clients.stories import (
    CAPTION,
    CONTENT,
    CSV,
    EDIT_STORY,
    EDITED,
    FAILURE,
    FRAMES,
    PAINTED,
    STORY,
    TABLE,
    THUMBNAIL,
    zip_files,
)

Way = Blocking | Looping


def test_files_have_a_life(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    file = way.take(client.files.upload(clip, on_progress=lambda done, total: seen.append((done, total))))
    assert (file.filename, file.bytes, file.kind, file.rate) == ("in.mp4", 6000, "video", "24000/1001")
    assert server.files[file.id][1] == clip.read_bytes()
    assert seen[-1] == (6000, 6000)
    assert way.take(client.files.retrieve(file.id)) == file
    assert way.take(client.files.list()).data == [file]
    assert way.take(client.files.delete(file.id)).deleted
    with pytest.raises(ApiError) as caught:
        way.take(client.files.retrieve(file.id))
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_an_upload_is_read_in_pieces(client: Any, way: Way, tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    with clip.open("wb") as file:
        os.truncate(file.fileno(), 8 << 20)
    seen: list[int] = [0]
    way.take(client.files.upload(clip, on_progress=lambda done, _: seen.append(done)))
    assert max(after - before for before, after in pairwise(seen)) <= 1 << 16
    assert seen[-1] == 8 << 20


def test_an_upload_that_is_refused_before_it_is_read(client: Any, way: Way, script: Script, tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    with clip.open("wb") as file:
        os.truncate(file.fileno(), 16 << 20)
    script.refuse = [(413, "the body is larger than the limit")]
    with pytest.raises(ApiError, match="larger than the limit"):
        way.take(client.files.upload(clip))


def test_a_missing_file_is_found_before_anything_is_sent(client: Any, way: Way, server: VideoServer) -> None:
    with pytest.raises(FileNotFoundError):
        way.take(client.files.upload("/nowhere/in.mp4"))
    assert server.seen == []


def test_a_video_is_ordered_as_json(client: Any, way: Way, server: VideoServer) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1", join=True, steps=4, prompt=None))
    assert server.jobs[video.id].fields == {"model": "v2v", "input_video": "file_1", "join": True, "steps": 4}
    assert (video.caption, video.params["seed"], video.results) == (CAPTION, 7, ["thumbnail", "video"])
    assert video.stages[0].model == "internvl"
    assert way.take(client.videos.retrieve(video.id)) == video


def test_a_path_is_sent_along(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    video = way.take(client.videos.create(model="v2v", input_video=clip, join=True, shift=2.5, prompt="ein Bär"))
    sent = {"model": "v2v", "join": "true", "shift": "2.5", "prompt": "ein Bär"}
    assert server.jobs[video.id].fields == {**sent, "input_video": clip.read_text()}


def test_pictures_are_sent_along_under_one_name(client: Any, way: Way, server: VideoServer, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.png" for number in (2, 10, 1)]
    for picture in pictures:
        picture.write_text(picture.stem)
    seen: list[tuple[int, int | None]] = []
    fields = {"edge_frames": pictures, "init_frame": pictures[0], "on_progress": lambda *at: seen.append(at)}
    video = way.take(client.videos.create(model="rolling-edit", **fields))
    sent = {"model": "rolling-edit", "edge_frames": ["2", "10", "1"], "init_frame": "2"}
    assert server.jobs[video.id].fields == sent
    assert seen == sorted(seen)
    assert seen[-1] == (5, 5)  # of all together


def test_a_folder_of_pictures_is_sent_as_a_zip(client: Any, way: Way, server: VideoServer, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    video = way.take(client.videos.create(model="rolling-edit", init_frame="file_9", edge_frames=tmp_path))
    sent = server.jobs[video.id].fields["edge_frames"].encode("latin-1")
    with zipfile.ZipFile(io.BytesIO(sent)) as archive:
        assert archive.read("1.png") == b"one"
    assert way.take(client.files.upload(tmp_path)).kind == "pictures"
    assert server.files["file_1"][0].filename == f"{tmp_path.name}.zip"


def test_a_folder_without_pictures_is_found_before_anything_is_sent(
    client: Any, way: Way, server: VideoServer, clip: Path
) -> None:
    (clip.parent / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="has no files"):
        way.take(client.videos.create(model="rolling-edit", init_frame=clip, edge_frames=clip.parent / "empty"))
    with pytest.raises(IsADirectoryError):
        way.take(client.videos.create(model="rolling-edit", init_frame=clip.parent))
    assert server.seen == []


def test_a_branch_is_ordered_as_json(client: Any, way: Way, server: VideoServer) -> None:
    branch, ttlg = {"video": "video_9", "frame": 3}, {"edge_scale": 2.0, "loss": "l1"}
    video = way.take(client.videos.create(model="rolling-edit", branch_from=branch, ttlg=ttlg, debug=True))
    assert server.jobs[video.id].fields == {
        "model": "rolling-edit",
        "branch_from": branch,
        "ttlg": ttlg,
        "debug": True,
    }


def test_a_picture_is_edited(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    answer = way.take(client.images.edit(image=clip, prompt="a fox", n=2, ttlg={"lr": 0.1}, model=None))
    assert [(picture.content, picture.seed) for picture in answer.data] == [(EDITED, 7), (EDITED, 8)]
    assert (answer.data[0].scores.edge_loss, answer.data[0].scores.temporal_loss) == (0.52, None)
    assert (answer.size, answer.output_format, answer.facts) == ("64x48", "png", {"seed": 7})
    fields = {"prompt": "a fox", "n": "2", "ttlg": '{"lr": 0.1}'}
    assert server.edits == [(fields, [("image", "in.mp4", clip.read_bytes())])]


def test_a_picture_is_edited_along_edges_with_a_reference(
    client: Any, way: Way, server: VideoServer, clip: Path
) -> None:
    edges = clip.with_name("edges.png")
    edges.write_bytes(b"edges")
    seen: list[tuple[int, int | None]] = []
    fields = {"edge_filter": "sobel", "model": "qwen-edit-2511"}
    way.take(client.images.edit(image=[clip, edges], edges=edges, **fields, on_progress=lambda *at: seen.append(at)))
    files = [
        ("edges", "edges.png", b"edges"),
        ("image[]", "in.mp4", clip.read_bytes()),
        ("image[]", "edges.png", b"edges"),
    ]
    assert server.edits == [(fields, files)]
    assert seen[-1] == (6010, 6010)


def test_an_edit_that_is_refused_says_why(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    with pytest.raises(ApiError) as caught:
        way.take(client.images.edit(image=clip, steps=0))
    assert (caught.value.status, caught.value.param) == (422, "steps")
    with pytest.raises(FileNotFoundError):
        way.take(client.images.edit(image=[clip, clip.with_name("nowhere.png")]))
    assert len(server.seen) == 1


def test_videos_can_be_cancelled_and_deleted(client: Any, way: Way) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    stopped = way.take(client.videos.cancel(video.id))
    assert (stopped.status, stopped.error.code) == ("failed", "cancelled")
    assert way.take(client.videos.delete(video.id)).deleted
    assert way.take(client.videos.list()).data == []


def test_lists_go_on_behind_the_first_page(client: Any, way: Way, server: VideoServer) -> None:
    made = [way.take(client.videos.create(model="v2v", input_video="file_1")).id for _ in range(5)]
    page = way.take(client.videos.list(limit=2))
    assert ([video.id for video in page.data], page.has_more) == (made[:2:-1], True)
    everything = way.take(client.videos.list_all(limit=2, order="asc"))
    assert [video.id for video in everything] == made
    pages = [seen.query for seen in server.requests("GET", "/v1/videos")[1:]]
    assert [query.get("after") for query in pages] == [None, made[1], made[3]]
    assert {query["order"] for query in pages} == {"asc"}
    assert way.take(client.files.list_all()) == []


def test_models_and_health(client: Any, way: Way) -> None:
    page = way.take(client.models.list())
    assert [(model.id, model.kind, model.roles, model.ready, model.state) for model in page.data] == [
        ("v2v", "graph", ["describe", "image-to-video"], False, "HEALTHY"),
        ("wan-5b", "wan", ["image-to-video"], True, "HEALTHY"),
        ("svd", "svd", ["image-to-video"], False, "UPDATING"),
    ]
    assert page.data[0].fields["steps"] == {"type": "integer", "default": 8, "maximum": 50}
    assert way.take(client.health()) is None


def test_models_of_an_older_server_are_read() -> None:
    model = Model.model_validate({"id": "v2v", "ready": True, "kind": "service"})
    assert (model.roles, model.state, model.fields) == ([], "", {})


def test_models_are_chosen_for_roles(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    chosen = {"image-to-video": "wan-5b", "describe": "internvl-8b"}
    way.take(client.videos.create(model="v2v", input_video="file_1", models=chosen))
    assert server.jobs["video_1"].fields == {"model": "v2v", "input_video": "file_1", "models": chosen}
    way.take(client.videos.create(model="v2v", input_video=clip, models=chosen))
    assert json.loads(server.jobs["video_2"].fields["models"]) == chosen


def test_a_picture_is_a_job_of_a_model_alone(client: Any, way: Way, server: VideoServer, tmp_path: Path) -> None:
    video = way.take(client.videos.create(model="flux", prompt="a fox", loras=["ink"], seed=7))
    assert server.jobs["video_1"].fields == {"model": "flux", "prompt": "a fox", "loras": ["ink"], "seed": 7}
    assert video.main == "image"
    assert way.take(client.videos.download(video.id, tmp_path / "fox.png")).read_bytes() == PAINTED
    repaint: VideoFields = {"image": "file_1", "prompt": "ink", "strength": 0.5, "guidance_rescale": 0.7}
    edit: VideoFields = {"image": "file_1", "edges": "file_2", "edge_filter": "sobel"}
    for model, fields in (("hunyuan-dit", repaint), ("qwen-edit", edit)):
        made = way.take(client.videos.create(model=model, **fields))
        assert server.jobs[made.id].fields == {"model": model, **fields}
        assert made.main == "image"


def test_events_are_read_to_the_end(client: Any, way: Way) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    events = way.take(client.videos.events(video.id))
    known = [index for index, (name, _) in enumerate(STORY, 1) if name != "tomorrow"]
    assert [event.id for event in events] == known
    assert "".join(event.piece for event in events if isinstance(event, TextEvent)) == CAPTION
    kinds = [type(event) for event in events[-4:]]
    assert kinds == [ProgressEvent, ProgressEvent, SegmentEvent, StatusEvent]
    assert next(event for event in events if isinstance(event, StageEvent)).seconds == 0.5


def test_frames_are_told_with_their_scores(client: Any, way: Way, script: Script) -> None:
    script.story = list(EDIT_STORY)
    video = way.take(client.videos.create(model="rolling-edit", rgb_video="file_1"))
    frames = [event for event in way.take(client.videos.events(video.id)) if isinstance(event, FrameEvent)]
    assert [(event.index, event.frames_done, event.frames_total) for event in frames] == [
        (0, 1, 3),
        (1, 2, 3),
        (2, 3, 3),
    ]
    assert frames[0].scores is None
    assert frames[1].scores is not None
    assert (frames[1].scores.gram_loss, frames[1].scores.temporal_loss) == (0.001234, None)


def test_broken_events_go_on_behind_the_last_one(client: Any, way: Way, server: VideoServer, script: Script) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.cut_events = [3, 0, 2]
    events = way.take(client.videos.events(video.id))
    assert [event.id for event in events] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
    asked = server.requests("GET", f"/v1/videos/{video.id}/events")
    assert [seen.headers.get("last-event-id") for seen in asked] == [None, "3", "3", "5"]


def test_events_begin_behind_a_given_one(client: Any, way: Way) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    assert [event.id for event in way.take(client.videos.events(video.id, after=9))] == [10, 11]


def test_events_that_never_come_are_given_up(client: Any, way: Way, server: VideoServer, script: Script) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.cut_events = [1] + [0] * 20
    with pytest.raises(ConnectionLost):
        way.take(client.videos.events(video.id))
    assert len(server.requests("GET", f"/v1/videos/{video.id}/events")) == 1 + 3  # one that told something new


def test_events_that_end_before_the_job_are_not_taken_for_the_end(client: Any, way: Way, server: VideoServer) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    del server.jobs[video.id].story[4:]
    with pytest.raises(ConnectionLost, match="ended before the job"):
        way.take(client.videos.events(video.id))


def test_a_server_that_is_busy_is_asked_again_for_events(client: Any, way: Way, script: Script) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.refuse = [(503, "starting")] * 2
    assert way.take(client.videos.events(video.id))[-1].id == len(STORY)


def test_events_of_a_deleted_job_are_not_asked_for_again(client: Any, way: Way, server: VideoServer) -> None:
    with pytest.raises(ApiError, match="there is no 'video_9'"):
        way.take(client.videos.events("video_9"))
    assert len(server.seen) == 1


def test_waiting_polls_as_the_server_wants(client: Any, way: Way, server: VideoServer, script: Script) -> None:
    script.polls = 3
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.refuse = [(502, "<html>")]
    assert way.take(client.videos.wait(video.id)).status == "completed"
    assert len(server.requests("GET", f"/v1/videos/{video.id}")) == 1 + 3 + 1


def test_waiting_ends_with_the_reason_of_a_failure(client: Any, way: Way, script: Script) -> None:
    script.story[-1] = FAILURE
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    with pytest.raises(JobFailed, match=r"out of memory \(model_failed\)") as caught:
        way.take(client.videos.wait(video.id))
    assert caught.value.video.id == video.id
    assert way.take(client.videos.events(video.id))[-1].error.code == "model_failed"


def test_waiting_ends_in_time(client: Any, way: Way, script: Script) -> None:
    script.polls = 1_000_000
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    with pytest.raises(WaitTimedOut, match=r"within 0\.05 s"):
        way.take(client.videos.wait(video.id, timeout_s=0.05))


def test_content_is_streamed_while_the_job_runs(client: Any, way: Way, script: Script) -> None:
    script.live = True
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    assert b"".join(way.take(client.videos.stream_content(video.id))) == CONTENT
    script.cut_content = [700]
    with pytest.raises(ConnectionLost):
        way.take(client.videos.stream_content(video.id))


def test_results_of_a_rolling_edit(client: Any, way: Way, tmp_path: Path) -> None:
    video = way.take(client.videos.create(model="rolling-edit", rgb_video="file_1"))
    target = tmp_path / "content"
    way.take(client.videos.download(video.id, target, variant="metrics"))
    assert target.read_bytes() == CSV
    way.take(client.videos.download(video.id, target, variant="metrics", format="json"))
    assert target.read_bytes() == TABLE
    assert b"".join(way.take(client.videos.stream_content(video.id, variant="metrics", format="json"))) == TABLE
    seen: list[tuple[int, int | None]] = []
    way.take(client.videos.download(video.id, target, variant="frames", on_progress=lambda *at: seen.append(at)))
    assert target.read_bytes() == zip_files(FRAMES)
    assert seen[-1] == (len(zip_files(FRAMES)), None)  # nobody knows how long it will be


def test_a_download_appears_whole(client: Any, way: Way, script: Script, tmp_path: Path) -> None:
    script.polls = 2
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    target = tmp_path / "out.mp4"
    seen: list[tuple[int, int | None]] = []
    way.take(client.videos.download(video.id, target, on_progress=lambda *at: seen.append(at)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    way.take(client.videos.download(video.id, target, variant="thumbnail"))
    assert target.read_bytes() == THUMBNAIL
    assert list(tmp_path.iterdir()) == [target]


def test_a_broken_download_goes_on_where_it_broke(
    client: Any, way: Way, server: VideoServer, script: Script, tmp_path: Path
) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.cut_content = [700, 0, 300]
    assert way.take(client.videos.download(video.id, tmp_path / "out.mp4")).read_bytes() == CONTENT
    asked = server.requests("GET", f"/v1/videos/{video.id}/content")
    assert [seen.headers.get("range") for seen in asked] == [None, "bytes=700-", "bytes=700-", "bytes=1000-"]
    assert asked[1].headers["if-range"] == '"one"'


def test_a_broken_download_without_a_strong_etag_begins_again(
    client: Any, way: Way, server: VideoServer, script: Script, tmp_path: Path
) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.etag = 'W/"weak"'
    script.cut_content = [700, 300]
    assert way.take(client.videos.download(video.id, tmp_path / "out.mp4")).read_bytes() == CONTENT
    assert all("range" not in seen.headers for seen in server.seen)


def test_a_download_that_cannot_be_finished_leaves_nothing(
    client: Any, way: Way, script: Script, tmp_path: Path
) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    script.cut_content = [700] + [0] * 20
    with pytest.raises(ConnectionLost):
        way.take(client.videos.download(video.id, tmp_path / "out.mp4"))
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_interrupted_and_leaves_what_was_there(client: Any, way: Way, tmp_path: Path) -> None:
    video = way.take(client.videos.create(model="v2v", input_video="file_1"))
    target = tmp_path / "out.mp4"
    target.write_bytes(b"from yesterday")

    def stop(_done: int, _total: int | None) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        way.take(client.videos.download(video.id, target, on_progress=stop))
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"from yesterday"


def test_errors_say_what_the_server_said(client: Any, way: Way) -> None:
    with pytest.raises(ApiError) as caught:
        way.take(client.videos.create(model="v2v", steps=0))
    error = caught.value
    assert (error.status, error.type, error.param, error.code, error.message) == (
        422,
        "invalid_request_error",
        "steps",
        "invalid_parameter",
        "steps: input should be greater than or equal to 1, got 0",
    )


def test_errors_of_a_proxy_are_errors_too(client: Any, way: Way, script: Script) -> None:
    script.refuse = [(502, "<h1>Bad Gateway</h1>")]
    with pytest.raises(ApiError, match="Bad Gateway") as caught:
        way.take(client.models.list())
    assert (caught.value.status, caught.value.code) == (502, None)


def test_an_answer_of_another_api_is_not_taken_for_ours(client: Any, way: Way, script: Script) -> None:
    script.refuse = [(200, "<h1>Welcome</h1>")]
    with pytest.raises(UnexpectedAnswer):
        way.take(client.models.list())


def test_the_key_is_sent(way: Way, server: VideoServer, script: Script) -> None:
    script.api_key = "secret"
    allowed, refused = way.open(f"{server.url}/v1/", api_key="secret"), way.open(server.url)
    assert way.take(allowed.models.list()).data
    with pytest.raises(ApiError) as caught:
        way.take(refused.models.list())
    assert caught.value.code == "invalid_api_key"
    for client in (allowed, refused):
        way.close(client)


def test_nobody_there(way: Way) -> None:
    with socket.socket() as unused:  # bound, and not listening
        unused.bind(("127.0.0.1", 0))
        client = way.open(f"http://127.0.0.1:{unused.getsockname()[1]}")
        for question in (client.models.list, lambda: client.videos.events("video_1")):
            with pytest.raises(ServerUnreachable, match="reel serve"):
                way.take(question())
        way.close(client)


@pytest.mark.parametrize("name", ["Client", "Faces", "Files", "Videos", "Images", "Models"])
def test_both_clients_offer_the_same(name: str) -> None:
    blocking, looping = getattr(module, name), getattr(module, f"Async{name}")
    public = {method for method in vars(blocking) if not method.startswith("_")}
    assert public == {method for method in vars(looping) if not method.startswith("_")}
    for method in public:
        name = "_create" if method == "create" else method  # that is a property, of signatures made of the definitions
        parameters = [inspect.signature(getattr(kind, name)).parameters for kind in (blocking, looping)]
        assert parameters[0] == parameters[1]
