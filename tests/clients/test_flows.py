"""What goes on after a break, and what does not."""

import json

import pytest

from reelgraph.errors import ApiError, ClientError, ConnectionLost, ServerUnreachable, UnexpectedAnswer
from reelgraph.flows import Attempts, Backoff, Download, EventFeed

BACKOFF = Backoff(limit=4, first_s=1.0, longest_s=3.0)


def told(number: int, event: str = "progress", **data: object) -> bytes:
    data = data or {"stage": "denoise", "done": number, "total": 9}
    return f"id: {number}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()


def test_the_wait_grows_up_to_a_limit_and_then_it_is_enough() -> None:
    attempts, error = Attempts(BACKOFF), ConnectionLost("broke")
    assert [attempts.record_failure(error) for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]
    with pytest.raises(ConnectionLost):
        attempts.record_failure(error)


def test_success_makes_failures_forgotten() -> None:
    attempts, error = Attempts(BACKOFF), ConnectionLost("broke")
    for _ in range(4):
        attempts.record_failure(error)
    attempts.record_progress()
    assert attempts.record_failure(error) == 1.0


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    attempts, gone = Attempts(BACKOFF), ServerUnreachable("http://127.0.0.1:1", "refused")
    with pytest.raises(ServerUnreachable):
        attempts.record_failure(gone)
    attempts.record_response()
    assert attempts.record_failure(gone) == 1.0


@pytest.mark.parametrize("error", [ApiError(404, "gone"), ApiError(500, "bug"), UnexpectedAnswer("what")])
def test_what_stays_wrong_is_not_tried_again(error: ClientError) -> None:
    with pytest.raises(type(error)):
        Attempts(BACKOFF).record_failure(error)


def test_an_event_is_given_once_although_it_is_sent_again() -> None:
    feed = EventFeed("video_1", None, BACKOFF)
    feed.handle_open(200, {})
    assert [event.id for event in feed.read(told(1) + told(2) + told(3)[:-20])] == [1, 2]
    feed.handle_error(ConnectionLost("broke"))
    assert feed.call.headers["Last-Event-ID"] == "2"
    feed.handle_open(200, {})
    assert [event.id for event in feed.read(told(1) + told(2) + told(3))] == [3]


def test_a_server_that_only_repeats_itself_is_given_up() -> None:
    feed = EventFeed("video_1", None, BACKOFF)
    for _ in range(BACKOFF.limit):
        feed.handle_open(200, {})
        list(feed.read(b": keep-alive\n\n" + told(1)))
        feed.handle_error(ConnectionLost("broke"))
    with pytest.raises(ConnectionLost):
        feed.handle_error(ConnectionLost("broke"))


def test_nothing_is_read_behind_the_end() -> None:
    feed = EventFeed("video_1", None, BACKOFF)
    feed.handle_open(200, {})
    events = list(feed.read(told(1, "status", status="completed") + told(2)))
    assert [event.id for event in events] == [1]
    assert feed.is_complete
    feed.handle_close()


@pytest.mark.parametrize(
    "wire",
    [
        b"id: 1\nevent: progress\ndata: {\n\n",
        b"id: one\nevent: progress\ndata: {}\n\n",
        b"id: 1\nevent: progress\ndata: [1]\n\n",
        b'id: 1\nevent: status\ndata: {"status": "lost"}\n\n',
    ],
)
def test_an_event_that_cannot_be_read_is_an_error(wire: bytes) -> None:
    feed = EventFeed("video_1", None, BACKOFF)
    feed.handle_open(200, {})
    with pytest.raises(UnexpectedAnswer, match="video_1"):
        list(feed.read(wire))


def test_another_file_under_the_same_name_is_read_from_its_beginning() -> None:
    download = Download("video_1", {}, BACKOFF, None)
    download.handle_open(200, {"content-length": "10", "etag": '"one"'})
    download.handle_bytes(4)
    download.handle_error(ConnectionLost("broke"))
    assert download.call.headers["Range"] == "bytes=4-"
    download.handle_open(200, {"content-length": "6", "etag": '"two"'})
    assert download.received == 0
    download.handle_bytes(6)
    download.handle_close()
    assert download.is_complete


def test_bytes_from_the_wrong_place_are_refused() -> None:
    download = Download("video_1", {}, BACKOFF, None)
    download.handle_open(200, {"content-length": "10", "etag": '"one"'})
    download.handle_bytes(4)
    with pytest.raises(UnexpectedAnswer, match="expected bytes from 4"):
        download.handle_open(206, {"content-length": "10", "content-range": "bytes 0-9/10", "etag": '"one"'})


def test_too_few_bytes_are_not_the_whole() -> None:
    download = Download("video_1", {}, BACKOFF, None)
    download.handle_open(200, {"content-length": "10"})
    download.handle_bytes(4)
    with pytest.raises(ConnectionLost, match="4 of 10 bytes"):
        download.handle_close()


def test_a_download_that_breaks_at_the_same_byte_each_time_is_given_up() -> None:
    download = Download("video_1", {}, BACKOFF, None)
    for _ in range(BACKOFF.limit):
        download.handle_open(200, {"content-length": "10"})
        download.handle_bytes(4)
        download.handle_error(ConnectionLost("broke"))
    with pytest.raises(ConnectionLost):
        download.handle_error(ConnectionLost("broke"))
