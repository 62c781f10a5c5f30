from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from miniatures.random import written
from services.errors import LimitExceeded
from services.frames import Frames, Item, Progress, StageDone, Text
from services.internvl.request import MAX_NEW_TOKENS, MAX_TEXT, DescribeRequest
from services.internvl.service import InternVL
from services.internvl.settings import InternVLSettings
from services.weights.weights import Weights


def settings(weights: Weights, /, **changes: object) -> InternVLSettings:
    return InternVLSettings.model_validate({"weights": weights, "device": "cpu", **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: a model this small does not gain from threads, and loses much on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home: Path) -> InternVL:
    return InternVL(settings(written("internvl", "tiny", home)), home, lambda: "internvl#1 cpu")


def video(count: int = 8) -> Frames:
    ramp = np.arange(count * 48 * 64 * 3, dtype=np.uint32).reshape(count, 48, 64, 3) * 7 // 64
    return Frames(ramp.astype(np.uint8))


async def collected(stream: AsyncIterator[Item]) -> list[Item]:
    return [item async for item in stream]


def caption(items: list[Item]) -> str:
    return "".join(item.piece for item in items if isinstance(item, Text))


@pytest.mark.parametrize("frames", [video(), None], ids=["video", "text"])
async def test_stream_is_progress_then_pieces_then_done(home: Path, service: InternVL, frames: Frames | None):
    items = await collected(service.describe(DescribeRequest(max_new_tokens=48), frames))

    first, *pieces, last = items
    assert isinstance(first, Progress)
    assert (first.stage, first.done, first.total) == ("describe", 0, 48)
    assert len(pieces) > 10
    assert all(isinstance(item, Text) and item.stage == "describe" and item.piece for item in pieces)
    assert caption(items).strip().endswith(".")
    assert isinstance(last, StageDone)
    source = written("internvl", "tiny", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("describe", "internvl", source, "")
    assert last.replica == "internvl#1 cpu"
    assert 0 < last.seconds < 60


async def test_same_frames_have_same_caption_and_others_another(service: InternVL):
    captions = [
        caption(await collected(service.describe(DescribeRequest(), frames)))
        for frames in (video(), video(), Frames(255 - video().pixels))
    ]

    assert captions[0] == captions[1] != captions[2]


async def test_more_frames_or_tokens_than_allowed_name_the_field(home: Path):
    small = settings(written("internvl", "tiny", home), max_frames=4, max_new_tokens=32)
    service = InternVL(small, home, lambda: "internvl#1 cpu")

    with pytest.raises(LimitExceeded, match="frames: at most 4 frames, got 5") as frames:
        await anext(service.describe(DescribeRequest(max_new_tokens=32), video(5)))
    with pytest.raises(LimitExceeded, match="max_new_tokens: at most 32 tokens, got 33") as tokens:
        await anext(service.describe(DescribeRequest(max_new_tokens=33), video(4)))

    assert (frames.value.param, tokens.value.param) == ("frames", "max_new_tokens")
    assert caption(await collected(service.describe(DescribeRequest(max_new_tokens=32), video(4))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": {}},
        {"max_frames": 17},
        {"max_frames": 0},
        {"max_new_tokens": MAX_NEW_TOKENS + 1},
        {"dtype": "int8"},
        {"attention": "magic"},
        {"trust_remote_code": True},
    ],
)
def test_settings_refuse_what_they_do_not_know(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        settings(Weights(path=Path("/weights")), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": "z" * (MAX_TEXT + 1)},
        {"prompt": "\ud800"},
        {"max_new_tokens": 0},
        {"max_new_tokens": MAX_NEW_TOKENS + 1},
        {"temperature": 1},
    ],
)
def test_request_refuses_what_it_does_not_know(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        DescribeRequest.model_validate(wrong)
