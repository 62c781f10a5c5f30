"""Sound files over HTTP: where they are taken, what is told of them, and the words for where they are not."""

from pathlib import Path
from typing import Any

import pytest

from composition.http.bodies import Body
from composition.http.schemas import file_object
from services.errors import InvalidParameter, NotFound, UndecodableMedia
from tests.composition.beeps import Take, write_take
from tests.composition.http.test_uploads import part, url
from tests.composition.media.test_sound import write_sound, write_wave
from tests.composition.ordering import Counter

ONLY_AUDIO = "must be {}, got a file with no video stream, only audio"


@pytest.fixture
def counter(stocked: Path) -> Counter:
    return Counter(stocked)


@pytest.fixture
def sound(tmp_path: Path) -> bytes:
    return write_sound(tmp_path / "a.mp3", "mp3").read_bytes()


async def upload(counter: Counter, data: bytes) -> str:
    return (await counter.uploads.store_part(part(data), "ann", "input", "file", takes_sound=True)).id


async def test_a_sound_file_is_stored_with_its_facts(counter: Counter, sound: bytes) -> None:
    file = await counter.uploads.store_part(part(sound, "a.mp3"), "ann", "input", "file", takes_sound=True)
    told = file_object(file)
    assert (told.kind, told.codec, told.sound, told.width, told.height) == ("sound", "mp3", "mp3", 0, 0)
    assert (told.frames, told.rate, told.damaged) == (0, None, None)
    assert told.duration_s == pytest.approx(1, abs=0.06)


async def test_the_sound_of_a_video_is_one_of_its_facts(counter: Counter, tmp_path: Path) -> None:
    video = write_take(tmp_path / "a.mp4", Take(audio="libopus"))
    file = await counter.uploads.store_part(part(video.read_bytes()), "ann", "input", "file")
    assert (file_object(file).kind, file_object(file).sound) == ("video", "opus")


@pytest.mark.parametrize(
    ("model", "field", "kind"),
    [
        ("v2v", "input_video", "a video"),
        ("full-pipeline", "face", "a picture"),
        ("rolling-edit", "edge_frames", "pictures"),
    ],
)
async def test_a_sound_is_no_picture(counter: Counter, sound: bytes, model: str, field: str, kind: str) -> None:
    fields: dict[str, Any] = {"v2v": {}, "full-pipeline": {"prompt": "a fox"}, "rolling-edit": {"prompt": "a fox"}}
    given = {"model": model, **fields[model], field: await upload(counter, sound)}
    if model == "full-pipeline":
        counter = Counter(counter.folder, served=("flux", "svd", "instantid"))
    if model == "rolling-edit":
        given["init_frame"] = counter.first.id
    with pytest.raises(InvalidParameter) as caught:
        await counter.jobs.build_job(Body(given), "ann")
    assert caught.value.message == f"{field}: {ONLY_AUDIO.format(kind)}"


async def test_a_sound_sent_with_a_request_for_a_video_is_refused_as_ever(counter: Counter, tmp_path: Path) -> None:
    data = write_sound(tmp_path / "a.m4a", "aac").read_bytes()
    for value in (part(data), url(data)):
        with pytest.raises(UndecodableMedia, match="input_video: the file has no video stream, only audio"):
            await counter.uploads.store_media(value, "video", "ann", "input_video")


SCENE = {"scene_number": 1, "description": "a fox", "duration": 1}


async def test_a_storyboard_takes_sounds(counter: Counter, sound: bytes, tmp_path: Path) -> None:
    video = await upload(counter, write_take(tmp_path / "a.mp4").read_bytes())
    first = await upload(counter, sound)
    script = {"scenes": [{**SCENE, "audio": first}, {**SCENE, "scene_number": 2, "audio": video}]}
    job = await counter.ordered("storyboard", script=script, upscale=False, audio=part(sound))
    assert job.media.keys() == {"audio", "script.scenes.1.audio", "script.scenes.2.audio"}
    assert job.params["audio"].startswith("file_")
    assert job.media["script.scenes.1.audio"] == f"files/{first}"


async def test_what_is_no_sound_is_refused_where_one_is_needed(counter: Counter, tmp_path: Path) -> None:
    expected = "must be a sound file, or a video with sound, got "
    for file, reason in ((counter.first, "a picture"), (counter.clip, "a video without sound")):
        with pytest.raises(InvalidParameter) as caught:
            await counter.ordered("storyboard", script={"scenes": [{**SCENE, "audio": file.id}]}, upscale=False)
        assert (caught.value.param, caught.value.message) == (
            "script.scenes.1.audio",
            f"script.scenes.1.audio: {expected}{reason}",
        )
        with pytest.raises(InvalidParameter) as caught:
            await counter.ordered("storyboard", script={"scenes": [SCENE]}, upscale=False, audio=file.id)
        assert caught.value.message == f"audio: {expected}{reason}"
    with pytest.raises(NotFound, match=r"script\.scenes\.1\.audio"):
        await counter.ordered("storyboard", script={"scenes": [{**SCENE, "audio": "file_x"}]}, upscale=False)
    broken = write_wave(tmp_path / "a.wav", samples=0).read_bytes()
    with pytest.raises(UndecodableMedia, match="audio: the sound cannot be used: it has no samples"):
        await counter.ordered("storyboard", script={"scenes": [SCENE]}, upscale=False, audio=part(broken))
