"""Sound through whole jobs: of a video that is enlarged, of a clip that is continued, and of the scenes of a film."""

import time
from collections.abc import AsyncGenerator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from composition.graphs.calls import Models, Transport
from composition.graphs.graph import Graph
from composition.graphs.run import GraphSettings
from composition.graphs.single import SINGLES
from composition.graphs.v2v import GRAPH as V2V_GRAPH
from composition.graphs.v2v.graph import V2V
from composition.jobs.attempt import Attempt
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store, make_id
from composition.records.tables import Job
from services.errors import ServiceLost
from services.frames import Frames, Item
from services.wan.request import WanRequest
from tests.composition import beeps
from tests.composition.beeps import FRAMES, Take, write_take
from tests.composition.graphs.test_single_upscale import UPSCALE, Enlarging
from tests.composition.jobs.test_storyboard import Set, script
from tests.composition.media.test_sound import read_lengths, write_sound
from tests.composition.rolling import Gone
from tests.composition.serving import Handle

TRANSPORT = Transport(lost=(Gone,))
WAN_RATE, WAN_FRAMES = 16, 17
FILES = Path(__file__).parents[2] / "data" / "media"


class Animator:
    """Wan's place: grey frames."""

    async def animate(
        self, request: WanRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> AsyncGenerator[Item]:
        for first in range(start, request.num_frames, 8):
            count = min(8, request.num_frames - first)
            yield Frames(np.full((count, image.height, image.width, 3), 60, np.uint8), first, Fraction(WAN_RATE))

    async def stop(self, key: str) -> None:
        """Nothing is under way."""


class Desk:
    """A store with jobs, and graphs whose models are fakes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        where = ArtifactSettings(url=str(folder / "artifacts"))
        self.artifacts = Artifacts(where)
        self.settings = GraphSettings(artifacts=where)

    def begin(self, model: str, params: dict[str, Any], source: Path) -> Job:
        self.artifacts.put("files/source", source.read_bytes())
        said: dict[str, Any] = {"params": params, "media": {"input_video": "files/source"}, "created_at": time.time()}
        self.store.create_job(Job(id=make_id("video"), owner="", model=model, **said), 99)
        claimed = self.store.claim_job(60.0)
        assert claimed
        return claimed

    async def work(self, job: Job, graph: Graph, made: object, *, again: bool = False) -> None:
        handle = Handle(made)
        lease = Lease(job.id, job.fence)
        attempt = Attempt(self.store, self.artifacts, MediaLimits(), self.store.get_job(job.id), lease)
        try:
            await attempt.run(handle, graph, TRANSPORT, is_retry=again)
        finally:
            await handle.rested()

    async def enlarge(self, source: Path, *services: Enlarging) -> Job:
        """Upscale a video, once with each service, each of which but the last one fails."""
        job = self.begin("realesrgan", {"input_video": "x", "scale": 2}, source)
        for number, service in enumerate(services):
            graph = UPSCALE.make(Models({"upscale": Handle(service)}), self.settings, TRANSPORT)
            if number + 1 < len(services):
                with pytest.raises(ServiceLost):
                    await self.work(job, SINGLES["realesrgan"], graph, again=number > 0)
            else:
                await self.work(job, SINGLES["realesrgan"], graph, again=number > 0)
        return self.store.get_job(job.id)

    async def carry_on(self, source: Path, *, join: bool) -> Job:
        params = {"input_video": "x", "prompt": "a fox", "join": join, "num_frames": WAN_FRAMES}
        job = self.begin("v2v", params, source)
        models = Models({"describe": Handle(object()), "image-to-video": Handle(Animator())})
        await self.work(job, V2V_GRAPH, V2V(models, self.settings, TRANSPORT))
        return self.store.get_job(job.id)

    def save(self, job: Job) -> Path:
        path = self.folder / f"{job.id}.mp4"
        path.write_bytes(b"".join(self.artifacts.read(str(job.results["video"]))))
        return path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize(
    ("name", "take", "fact"),
    [
        ("a.mp4", Take(), "copied: aac"),
        ("a.webm", Take("webm", video="libvpx", audio="libopus"), "copied: opus"),
        ("a.mov", Take("mov", audio="pcm_s16le", rate=22_050), "converted: pcm_s16le to aac"),
        ("late.mp4", Take(video_start=Fraction(12, 25)), "copied: aac"),
        ("variable.mkv", Take("matroska", times=tuple(n + 30 * (n > 15) for n in range(FRAMES))), "copied: aac"),
    ],
)
async def test_an_enlarged_video_is_heard_as_it_was(desk: Desk, name: str, take: Take, fact: str) -> None:
    take = Take(**{**take.__dict__, "sound_end": Fraction(max(take.times) + 1, 25)})
    source = write_take(desk.folder / name, take)
    job = await desk.enlarge(source, Enlarging())
    assert job.facts["sound"] == fact
    beeps.assert_in_time(desk.save(job))


@pytest.mark.parametrize("audio", ["aac", "pcm_s16le"])
async def test_a_resumed_job_has_the_same_bytes(desk: Desk, audio: str) -> None:
    source = write_take(desk.folder / "a.mov", Take("mov", audio=audio))
    whole = await desk.enlarge(source, Enlarging())
    resumed = await desk.enlarge(source, Enlarging({32: Gone()}), Enlarging())
    assert desk.save(resumed).read_bytes() == desk.save(whole).read_bytes()


async def test_a_joined_clip_is_heard_and_silence_behind_it(desk: Desk) -> None:
    source = write_take(desk.folder / "a.mp4", Take(sound_end=Fraction(4)))
    job = await desk.carry_on(source, join=True)
    assert job.facts["sound"] == "copied: aac"
    result = desk.save(job)
    beeps.assert_in_time(result)
    video_s, sound_s = read_lengths(result)
    assert video_s == pytest.approx((FRAMES - 1) / 25 + WAN_FRAMES / WAN_RATE, abs=0.001)
    assert sound_s == pytest.approx(FRAMES / 25, abs=0.03), "the clip's longer sound ends with it"


async def test_a_continuation_alone_says_that_it_has_no_sound(desk: Desk) -> None:
    job = await desk.carry_on(write_take(desk.folder / "a.mp4"), join=False)
    assert job.facts["sound"] == "left out: the result shows only the continuation"
    with av.open(str(desk.save(job))) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("name", ["sound.mp4", "wide_sound.mp4"])
async def test_the_samples_keep_their_sound(desk: Desk, name: str) -> None:
    for job in (await desk.enlarge(FILES / name, Enlarging()), await desk.carry_on(FILES / name, join=True)):
        assert job.facts["sound"] == "copied: aac"
        assert beeps.read_packets(desk.save(job)) == beeps.read_packets(FILES / name)


async def test_a_broken_sound_does_not_fail_the_job(desk: Desk) -> None:
    source = write_take(desk.folder / "a.mkv", Take("matroska"))
    source.write_bytes(source.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    job = await desk.enlarge(source, Enlarging())
    assert (job.frames_done, job.facts["sound"]) == (FRAMES, "left out: its codec is not supported")


async def test_scenes_are_heard_when_they_begin_and_silence_is_between(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    told = script(1, 1, 1, audio="file_1")
    told["scenes"][2]["audio"] = "file_3"
    beep = write_sound(tmp_path / "beep.mp3", "mp3", 0.2, seconds=3).read_bytes()
    speech = write_sound(tmp_path / "speech.wav", "pcm_s16le", 0.4, seconds=3).read_bytes()
    media = {"script.scenes.1.audio": beep, "script.scenes.3.audio": speech}
    async with stage.working():
        film = await stage.ended(order(stage, media, script=told, crossfade_s=0.5))
    assert film.status == "completed"
    assert film.facts["sound"] == "mixed: 2 sounds to aac"
    result = tmp_path / "film.mp4"
    result.write_bytes(stage.video(film))
    # 6 frames a second: each cross-fade is 3 frames, half a second.
    assert beeps.find_beeps(result) == pytest.approx([0.2, 1.4], abs=0.005)
    assert read_lengths(result) == (pytest.approx(2, abs=0.001), pytest.approx(2, abs=0.03))


async def test_a_film_has_sound_under_it_to_its_end(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    music = write_sound(tmp_path / "music.m4a", "aac", 1.25, seconds=9).read_bytes()
    async with stage.working():
        film = await stage.ended(order(stage, {"audio": music}, script=script(1, 1), audio="file_m"))
    assert film.facts["sound"] == "copied: aac"
    result = tmp_path / "film.mp4"
    result.write_bytes(stage.video(film))
    assert beeps.find_beeps(result) == pytest.approx([1.25], abs=0.005)
    assert read_lengths(result) == (pytest.approx(2, abs=0.001), pytest.approx(2, abs=0.03))


def order(stage: Set, media: dict[str, bytes], **fields: Any) -> Job:
    """Order a film with files."""
    keys: dict[str, str] = {}
    for place, data in media.items():
        keys[place] = f"files/{place}"
        stage.artifacts.put(keys[place], data)
    return stage.ordered(keys, **fields)
