"""Requests as they are built, and answers as they are understood."""

import json
import math
from pathlib import Path

import pytest

from reelgraph import wire
from reelgraph.errors import ApiError, ServerUnreachable
from reelgraph.objects import Page, Video

VIDEO = {"id": "video_1", "model": "v2v", "status": "queued", "created_at": 1}


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://example.org/reel/v1/", "https://example.org/reel"),
    ],
)
def test_the_address_is_taken_with_and_without_its_version(given: str, root: str) -> None:
    assert wire.strip_version(given) == root


@pytest.mark.parametrize("given", ["127.0.0.1:8000", "localhost", "", "ftp://example.org"])
def test_an_address_without_a_scheme_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="must start with http"):
        wire.strip_version(given)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:1", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:8", True),
        ("http://127.org:8000", False),
        ("https://example.org", False),
    ],
)
def test_this_machine_is_known(url: str, here: bool) -> None:
    assert wire.is_loopback(url) is here


@pytest.mark.parametrize("name", ["../files", "a/b", "a?b=c", "a#b", "video 1"])
def test_an_id_stays_within_its_place_in_the_path(name: str) -> None:
    rest = wire.retrieve_video(name).path.removeprefix("/v1/videos/")
    assert not set("/?# ") & set(rest)


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        wire.delete_video("")


def test_fields_of_a_form_are_json_where_they_are_no_strings() -> None:
    call = wire.create_video("v2v", {"image": Path("a.png"), "join": False, "steps": 4, "prompt": "4", "seed": None})
    assert call.form == {"model": "v2v", "join": "false", "steps": "4", "prompt": "4"}
    assert call.parts == [wire.Part("image", Path("a.png"))]
    assert call.json is None


def test_paths_in_a_list_are_parts_of_one_name() -> None:
    call = wire.create_video("rolling-edit", {"edge_frames": [Path("2.png"), Path("10.png")], "branch_from": None})
    assert call.parts == [wire.Part("edge_frames", Path("2.png")), wire.Part("edge_frames", Path("10.png"))]
    assert call.form == {"model": "rolling-edit"}


def test_ids_in_a_list_are_a_field_that_is_repeated_or_json() -> None:
    ids = ["file_1", "data:image/png;base64,AA=="]
    call = wire.create_video("rolling-edit", {"edge_frames": ids, "ttlg": {"lr": 0.1, "every": None}})
    assert call.json == {"model": "rolling-edit", "edge_frames": ids, "ttlg": {"lr": 0.1}}
    assert not call.parts
    call = wire.create_video("rolling-edit", {"edge_frames": ids, "init_frame": Path("a.png"), "ttlg": {"lr": 0.1}})
    assert call.form == {"model": "rolling-edit", "edge_frames": ids, "ttlg": '{"lr": 0.1}'}
    call = wire.create_video("rolling-edit", {"edge_frames": [], "init_frame": Path("a.png")})
    assert call.form == {"model": "rolling-edit", "edge_frames": "[]"}


def test_a_list_of_both_paths_and_ids_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^edge_frames: a list must have either"):
        wire.create_video("rolling-edit", {"edge_frames": [Path("2.png"), "file_1"]})


def test_only_where_pictures_go_a_folder_may_stand() -> None:
    call = wire.create_video("rolling-edit", {"edge_frames": Path("edges"), "init_frame": Path("a.png")})
    assert {part.name: part.accepts_folder for part in call.parts} == {"edge_frames": True, "init_frame": False}


def test_a_server_may_take_its_time_to_convert_a_result() -> None:
    for form in ("gif", "webp", "png", "jpeg"):
        assert wire.get_content("video_1", {"format": form}).read_timeout_s == math.inf
    assert wire.get_content("video_1", {"format": "mp4"}).read_timeout_s is None
    assert wire.get_content("video_1", {}).read_timeout_s is None


def test_one_picture_is_edited_or_several_in_order() -> None:
    one = wire.edit_image({"image": "a.png", "prompt": "4", "n": 2, "ttlg": {"loss": "l1"}, "seed": None})
    assert one.parts == [wire.Part("image", Path("a.png"))]
    assert one.form == {"prompt": "4", "n": "2", "ttlg": '{"loss": "l1"}'}
    two = wire.edit_image({"image": [Path("a.png"), "b.png"], "edges": Path("edges.png")})
    parts = [("edges", "edges.png"), ("image[]", "a.png"), ("image[]", "b.png")]
    assert two.parts == [wire.Part(name, Path(path)) for name, path in parts]


def test_pictures_of_an_edit_may_be_ids_or_data_urls() -> None:
    one = wire.edit_image({"image": "file_1", "edges": "data:image/png;base64,AA=="})
    assert (one.json, one.parts) == ({"image": "file_1", "edges": "data:image/png;base64,AA=="}, ())
    some = wire.edit_image({"image": ["file_1", "file_2"], "edges": "edges.png", "n": 2})
    assert some.parts == [wire.Part("edges", Path("edges.png"))]
    assert some.form == {"image": ["file_1", "file_2"], "n": "2"}
    several = wire.edit_image({"image": ["file_1", "file_2"]})
    assert several.json == {"image": ["file_1", "file_2"]}
    with pytest.raises(ValueError, match="a list must have either only paths or only file ids"):
        wire.edit_image({"image": [Path("a.png"), "file_1"]})
    assert wire.edit_image({"image": Path("file_1.png")}).parts == [wire.Part("image", Path("file_1.png"))]


@pytest.mark.parametrize(
    ("headers", "delay_s"),
    [
        ({}, 1.0),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "openai-poll-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        ({"retry-after": "-5"}, 0.0),
    ],
)
def test_the_server_says_when_to_ask_again(headers: dict[str, str], delay_s: float) -> None:
    call = wire.poll_video("video_1")
    assert wire.parse_response(call, wire.Response(200, headers, json.dumps(VIDEO).encode()))[1] == delay_s


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"null", b"[1]", b'{"error": "no"}', b'{"detail": "Not Found"}'])
def test_any_body_makes_an_error(body: bytes) -> None:
    error = wire.parse_error(wire.Response(500, {}, body))
    assert (error.status, error.code) == (500, None)
    assert str(error)


def test_an_error_shows_its_code_and_field() -> None:
    error = ApiError(422, "steps: must be at least 1", "invalid_request_error", "steps", "invalid_parameter")
    assert str(error) == "steps: must be at least 1 (422, invalid_parameter, param steps)"
    assert not error.transient


def test_the_last_page_has_none_behind_it() -> None:
    call = wire.list_videos(limit=2)
    page = Page[Video].model_validate({"data": [VIDEO], "last_id": "video_1", "has_more": True})
    following = wire.next_page(call, page)
    assert following is not None
    assert following.query == {"limit": 2, "after": "video_1"}
    assert wire.next_page(call, page.model_copy(update={"has_more": False})) is None


def test_who_finds_no_server_is_told_how_to_start_one() -> None:
    said = str(ServerUnreachable("http://127.0.0.1:8000", "refused"))
    assert all(word in said for word in ("http://127.0.0.1:8000", "refused", "reel serve", "--local", "--url"))
