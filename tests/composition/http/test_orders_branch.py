"""Rolling edits that start from a frame of an older job: inherited fields and validation."""

from fractions import Fraction
from typing import Any

import pytest

from composition.http.bodies import Body
from composition.media.encode import encode_png
from composition.records.store import Page
from composition.records.tables import Job
from services.errors import InvalidParameter, LimitExceeded, NotFound, ReelError
from tests.composition import albums
from tests.composition import sample_media as media
from tests.composition.ordering import EDGES, Counter, frame_of

FRAMES = 4
"""Number of finished frames of the older job, which makes one more."""
ASKED: dict[str, Any] = {"seed": 5, "steps": 6, "prompt": "a boat", "fps": 12.0, "ttlg": {"lr": 0.3, "gram_scale": 0.2}}


@pytest.fixture
async def old(counter: Counter) -> Job:
    return await counter.begun(await counter.edit(**ASKED), FRAMES)


def changed(job: Job, old: Job) -> dict[str, Any]:
    """Return the fields that differ from the older job."""
    assert job.params.keys() == old.params.keys()
    return {name: value for name, value in job.params.items() if value != old.params[name]}


@pytest.mark.parametrize("frame", range(FRAMES))
async def test_what_is_not_given_is_the_older_job_s(counter: Counter, old: Job, frame: int) -> None:
    job = await counter.branch(old.id, frame)
    branch = {"video": old.id, "frame": frame}
    first = counter.store.get_file(job.params["init_frame"], "ann")
    expected: dict[str, Any] = {"init_frame": first.id, "branch_from": branch}
    media = {"init_frame": first.key, "edge_frames": counter.edges.key}
    if frame:
        style = counter.store.get_file(job.params["style_frame"], "ann")
        assert counter.data(style) == encode_png(frame_of(0))
        expected |= {"edge_start": frame, "style_frame": style.id}
        media |= {"style_frame": style.key}
    assert changed(job, old) == expected
    assert counter.data(first) == encode_png(frame_of(frame))
    assert job.media == media
    assert (job.owner, job.model) == ("ann", "rolling-edit")
    assert job.id != old.id


async def test_what_is_given_stands_before_the_older_job_s(counter: Counter, old: Job) -> None:
    given: dict[str, Any] = {"seed": 9, "steps": 8, "fps": 5.0, "max_frames": 2, "debug": True, "ttlg": {"lr": 0.5}}
    job = await counter.branch(old.id, 2, **given)
    merged = {**old.params["ttlg"], "lr": 0.5}
    different = changed(job, old)
    assert {name: different[name] for name in given} == {**given, "ttlg": merged}
    assert set(different) == {*given, "init_frame", "style_frame", "branch_from", "edge_start"}
    assert (job.params["edge_start"], job.params["prompt"]) == (2, "a boat")
    assert (await counter.branch(old.id, 2, edge_start=1)).params["edge_start"] == 1
    drawn = {(await counter.branch(old.id, 2, seed=-1)).params["seed"] for _ in range(2)}
    assert len(drawn) == 2
    assert -1 not in drawn


@pytest.mark.parametrize(("most", "frame", "left"), [(EDGES, 0, 4), (EDGES, 1, 3), (EDGES, 3, 1), (2, 3, 1)])
async def test_as_many_frames_are_left_as_the_older_job_would_have_made(
    counter: Counter, most: int, frame: int, left: int
) -> None:
    old = await counter.begun(await counter.edit(max_frames=most), FRAMES)
    assert (await counter.branch(old.id, frame)).params["max_frames"] == left
    assert (await counter.branch(old.id, frame, max_frames=2)).params["max_frames"] == 2


async def test_a_branch_of_a_branch_goes_on_at_the_same_edges(counter: Counter, old: Job) -> None:
    middle = await counter.branch(old.id, 1, prompt="at night")
    counter.store.end_job(counter.lease(old), "completed")
    await counter.begun(middle, 3)
    job = await counter.branch(middle.id, 2)
    assert (job.params["edge_start"], job.params["prompt"], job.params["seed"]) == (3, "at night", 5)
    assert job.params["branch_from"] == {"video": middle.id, "frame": 2}
    assert job.media["edge_frames"] == counter.edges.key


async def test_own_edges_begin_at_their_first(counter: Counter) -> None:
    old = await counter.begun(await counter.edit(edge_start=1, seed=5), 3)
    video = await counter.upload(media.count(counter.folder / "a.mp4", 6, rate=Fraction(12)).read_bytes())
    job = await counter.branch(old.id, 2, edge_video=video.id)
    assert (job.params["edge_start"], job.params["edge_frames"], job.params["seed"]) == (0, None, 5)
    assert job.media.keys() == {"init_frame", "style_frame", "edge_video"}
    assert counter.data(counter.store.get_file(job.params["init_frame"], "ann")) == encode_png(frame_of(2))
    assert (await counter.branch(old.id, 2, edge_video=video.id, edge_start=3)).params["edge_start"] == 3
    assert (await counter.branch(old.id, 2)).params["edge_start"] == 3


@pytest.mark.parametrize("field", ["init_frame", "input_reference"])
async def test_an_own_first_frame_stands_before_the_older_job_s_frame(counter: Counter, old: Job, field: str) -> None:
    mine = await counter.upload(albums.numbered(9))
    files = len(counter.store.list_files("ann", Page(100))[0])
    job = await counter.branch(old.id, 3, **{field: mine.id})
    assert job.media == {"init_frame": mine.key, "edge_frames": counter.edges.key}
    assert job.params["edge_start"] == 3
    assert len(counter.store.list_files("ann", Page(100))[0]) == files


async def test_own_edges_end_where_they_end(counter: Counter) -> None:
    old = await counter.begun(await counter.edit(max_frames=EDGES + 1), 3)
    edges = await counter.upload(albums.album(counter.folder / "two.zip", 2).read_bytes())
    assert (await counter.branch(old.id, 2, edge_frames=edges.id)).params["max_frames"] is None
    with pytest.raises(InvalidParameter, match="max_frames: 4 frames need 3 edges, and there are 2"):
        await counter.branch(old.id, 2, edge_frames=edges.id, max_frames=4)


async def test_the_style_is_handed_on(counter: Counter, old: Job) -> None:
    middle = await counter.branch(old.id, 1)
    counter.store.end_job(counter.lease(old), "completed")
    await counter.begun(middle, 2)
    assert (await counter.branch(middle.id, 1)).params["style_frame"] == middle.params["style_frame"]
    mine = await counter.upload(albums.numbered(9))
    assert (await counter.branch(middle.id, 1, style_frame=mine.id)).media["style_frame"] == mine.key


async def test_a_gate_is_inherited_field_by_field(counter: Counter) -> None:
    gate = {"edge_loss": 0.8, "temporal_loss": 0.1, "tries": 4}
    old = await counter.begun(await counter.edit(gate=gate), FRAMES)
    none = {"gram_loss": None, "lpips_to_init": None, "lpips_to_prev": None}
    assert old.params["gate"] == {**gate, **none}
    assert (await counter.branch(old.id, 1)).params["gate"] == old.params["gate"]
    for given in ({"tries": 2, "temporal_loss": None}, '{"tries": 2, "temporal_loss": null}'):
        merged = {**old.params["gate"], "tries": 2, "temporal_loss": None}
        assert (await counter.branch(old.id, 1, gate=given)).params["gate"] == merged
    for none_at_all in (None, "null"):
        body = {"model": "rolling-edit", "branch_from": {"video": old.id, "frame": 1}, "gate": none_at_all}
        assert (await counter.jobs.build_job(Body(body), "ann")).params["gate"] is None
    with pytest.raises(InvalidParameter, match="gate: give at least one maximum"):
        await counter.branch(old.id, 1, gate={"edge_loss": None, "temporal_loss": None})


async def test_a_branch_of_a_job_without_a_gate_can_have_one(counter: Counter, old: Job) -> None:
    assert (await counter.branch(old.id, 1)).params["gate"] is None
    assert (await counter.branch(old.id, 1, gate={"edge_loss": 0.8})).params["gate"]["tries"] == 3
    with pytest.raises(InvalidParameter, match="gate: give at least one maximum"):
        await counter.branch(old.id, 1, gate={"tries": 2})


async def test_guidance_that_is_no_json_object(counter: Counter, old: Job) -> None:
    for bad in ("{", "3", "[]"):
        with pytest.raises(InvalidParameter, match="ttlg: ") as caught:
            await counter.branch(old.id, 1, ttlg=bad)
        assert caught.value.param == "ttlg"


async def test_an_ordinary_video_is_taken_over_as_the_edges(counter: Counter) -> None:
    video = await counter.upload(media.count(counter.folder / "a.mp4", 6).read_bytes())
    old = await counter.edit(init_frame=None, edge_frames=None, rgb_video=video.id, edge_filter="laplacian")
    job = await counter.branch((await counter.begun(old, 2)).id, 1)
    assert job.params["edge_filter"] == "laplacian"
    assert job.media["rgb_video"] == video.key
    assert counter.data(counter.store.get_file(job.params["init_frame"], "ann")) == encode_png(frame_of(1))


@pytest.mark.parametrize(
    ("branch", "param", "words"),
    [
        ({"frame": FRAMES}, "branch_from", "branch_from.frame: OLD has no frame 4; available: 0 to 3"),
        ({"frame": 2**31 - 1}, "branch_from", "branch_from.frame: OLD has no frame 2147483647; available: 0 to 3"),
        ({"frame": 2**31}, "branch_from.frame", "branch_from.frame: input should be less than or equal to 2147483647"),
        ({"frame": -1}, "branch_from.frame", "branch_from.frame: input should be greater than or equal to 0, got -1"),
        ({"frame": "last"}, "branch_from.frame", "branch_from.frame: input should be a valid integer"),
        ({"frame": None}, "branch_from.frame", "branch_from.frame: "),
        ({"frame": 1, "edge": 1}, "branch_from.edge", "branch_from.edge: there is no such field"),
    ],
)
async def test_frames_that_are_not_there(
    counter: Counter, old: Job, branch: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await counter.branch("", 0, branch_from={"video": old.id, **branch})
    assert caught.value.param == param
    assert caught.value.message.startswith(words.replace("OLD", old.id))


async def test_a_form_writes_it_as_json(counter: Counter, old: Job) -> None:
    job = await counter.branch("", 0, branch_from=f'{{"video": "{old.id}", "frame": "2"}}')
    assert job.params["branch_from"] == {"video": old.id, "frame": 2}
    for bad in ("{", "2", "[]", "null", old.id):
        with pytest.raises(InvalidParameter, match="branch_from: ") as caught:
            await counter.branch("", 0, branch_from=bad)
        assert caught.value.param == "branch_from"


async def test_a_job_without_a_frame_yet(counter: Counter) -> None:
    old = await counter.begun(await counter.edit(), 0)
    with pytest.raises(InvalidParameter, match=f"branch_from.frame: {old.id} has no frame 0; available: none yet"):
        await counter.branch(old.id, 0)


async def test_a_job_that_is_not_there_or_somebody_else_s(counter: Counter, old: Job) -> None:
    async def refused(video: str, owner: str) -> None:
        with pytest.raises(NotFound) as caught:
            await counter.branch(video, 1, owner)
        assert caught.value.param == "branch_from"
        assert caught.value.message == f"branch_from.video: there is no video {video!r}"

    await refused("video_none", "ann")
    await refused(old.id, "bob")
    counter.store.stop_job(old.id, "ann", delete_it=True)
    await refused(old.id, "ann")


async def test_a_job_of_another_model(counter: Counter) -> None:
    other = await counter.begun(await counter.video(), 2)
    with pytest.raises(InvalidParameter) as caught:
        await counter.branch(other.id, 1)
    assert caught.value.param == "branch_from"
    assert caught.value.message == (
        f"branch_from.video: must be a job of rolling-edit, got {other.id}, which is a job of v2v"
    )
    with pytest.raises(InvalidParameter, match="branch_from: there is no such field"):
        await counter.video(branch_from={"video": other.id, "frame": 1})


async def test_edges_that_were_deleted_must_be_given_again(counter: Counter, old: Job) -> None:
    counter.store.end_job(counter.lease(old), "failed", ("cancelled", "the job was cancelled"))
    await counter.uploads.delete_file(counter.edges.id, "ann")
    with pytest.raises(NotFound) as caught:
        await counter.branch(old.id, 1)
    assert caught.value.param == "branch_from"
    assert caught.value.message == (
        f"branch_from.video: the edge_frames of {old.id} was deleted; give edge_frames again"
    )
    edges = await counter.upload(albums.album(counter.folder / "again.zip", 3).read_bytes())
    assert (await counter.branch(old.id, 1, edge_frames=edges.id)).media["edge_frames"] == edges.key


@pytest.mark.parametrize(
    ("frame", "fields", "kind", "words"),
    [
        (1, {"steps": 21}, LimitExceeded, "steps: 21 is more than the limit of 20"),
        (1, {"max_frames": 5}, InvalidParameter, "max_frames: 5 frames need 4 edges, and there are 3 from edge 1 on"),
        (1, {"ttlg": {"lr": 0}}, InvalidParameter, "ttlg.lr: input should be greater than 0, got 0"),
        (1, {"step": 3}, InvalidParameter, "step: there is no such field; did you mean steps?"),
    ],
)
async def test_a_branch_is_checked_like_any_other_job(
    counter: Counter, old: Job, frame: int, fields: dict[str, Any], kind: type[ReelError], words: str
) -> None:
    with pytest.raises(kind) as caught:
        await counter.branch(old.id, frame, **fields)
    assert caught.value.message == words


async def test_no_edge_is_left_behind_the_last_frame(counter: Counter) -> None:
    old = await counter.begun(await counter.edit(), EDGES + 1)
    with pytest.raises(InvalidParameter, match=r"the number of edges \(4\), got 4"):
        await counter.branch(old.id, EDGES)


async def test_guidance_in_a_form_s_json_is_merged_like_an_object(counter: Counter, old: Job) -> None:
    plain = await counter.branch(old.id, 1, ttlg={"lr": 0.5})
    assert (await counter.branch(old.id, 1, ttlg='{"lr": 0.5}')).params["ttlg"] == plain.params["ttlg"]


async def test_a_frame_s_number_beyond_all_numbers(counter: Counter, old: Job) -> None:
    with pytest.raises(InvalidParameter):
        await counter.branch(old.id, 2**63)


async def test_a_branch_that_is_refused_leaves_no_upload(counter: Counter, old: Job) -> None:
    before = {file.id for file in counter.store.list_files("ann", Page(100))[0]}
    with pytest.raises(LimitExceeded):
        await counter.branch(old.id, 1, steps=21)
    assert {file.id for file in counter.store.list_files("ann", Page(100))[0]} == before
