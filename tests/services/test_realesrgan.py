"""Real-ESRGAN: sizes, seamless tiles, preserved frame indices, and the effect on a real picture."""

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN

from miniatures.random import written
from services.errors import Cancelled, ConfigError, InvalidParameter, LimitExceeded
from services.frames import Frames, Item, Pixels, StageDone
from services.pixels import averaged, pixels_of, tensor_of
from services.realesrgan.model import RealEsrganModel, reach, tiles
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.service import RealEsrgan
from services.realesrgan.settings import SHIPPED, RealEsrganSettings
from services.weights.web_file import WebFile
from services.weights.weights import Weights
from tests.services.file_server import serve_file

CLIP = Path(__file__).parents[2] / "clients" / "media" / "bigbuckbunny.mp4"
RANDOM = np.random.default_rng(7)
ODD = RANDOM.integers(0, 256, (3, 37, 51, 3), np.uint8)
"""Three frames of 51 x 37 pixels."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shipped(home) -> RealEsrgan:
    return loaded(home)


@pytest.fixture(scope="module")
def footage() -> Pixels:
    """A frame of the shipped clip at a quarter of its width and height: (1, 180, 320, 3)."""
    with av.open(str(CLIP)) as file:
        frame = next(iter(file.decode(video=0)))
        return frame.reformat(320, 180, "rgb24", interpolation="AREA").to_ndarray().astype(np.uint8)[None]


def loaded(home: Path, **settings: Any) -> RealEsrgan:
    fields = {"device": "cpu", "dtype": "float32", **settings}
    return RealEsrgan(RealEsrganSettings(**fields), home, lambda: "realesrgan#test cpu")


async def items_of(net: RealEsrgan, pixels: Pixels, scale: int = 4, key: str = "") -> list[Item]:
    frames = Frames(pixels, 5, Fraction(25))
    return [item async for item in net.upscale(UpscaleRequest(scale=scale), frames, key)]


async def made(net: RealEsrgan, pixels: Pixels, scale: int = 4) -> Pixels:
    return next(item.pixels for item in await items_of(net, pixels, scale) if isinstance(item, Frames))


def farthest(one: Pixels, other: Pixels) -> int:
    """Return the maximum difference in levels of 0 to 255."""
    return int(np.abs(one.astype(int) - other).max())


async def test_the_stream_is_the_run_and_who_did_it(shipped) -> None:
    frames, done = await items_of(shipped, ODD, 2)
    assert isinstance(frames, Frames)
    assert (frames.first, frames.rate, frames.pixels.shape) == (5, Fraction(25), (3, 74, 102, 3))
    assert isinstance(done, StageDone)
    assert (done.stage, done.model, done.source, done.replica) == (
        "upscale",
        "realesrgan",
        "realesr-animevideov3",
        "realesrgan#test cpu",
    )
    assert done.seconds > 0


async def test_it_is_what_the_net_makes(shipped) -> None:
    net = ModelLoader(device="cpu").load_from_file(SHIPPED).model.float().eval()
    with torch.no_grad():
        whole = net(tensor_of(ODD, torch.device("cpu")))
    assert farthest(await made(shipped, ODD), pixels_of(whole)) <= 1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (37, 51), (2, 300), (64, 48)])
async def test_sizes_are_exact(shipped, scale: int, size: tuple[int, int]) -> None:
    height, width = size
    pixels = RANDOM.integers(0, 256, (1, height, width, 3), np.uint8)
    assert (await made(shipped, pixels, scale)).shape == (1, height * scale, width * scale, 3)


@pytest.mark.parametrize("scale", [2, 3])
async def test_a_smaller_scale_is_the_mean_of_the_area(shipped, scale: int) -> None:
    whole = (await made(shipped, ODD[:1])).astype(np.float64) / 255
    ours = await made(shipped, ODD[:1], scale)
    # Area averaging for any ratio: repeat every pixel `scale` times, then average each 4 x 4.
    repeated = whole.repeat(scale, 1).repeat(scale, 2)
    height, width = ours.shape[1:3]
    expected = repeated.reshape(1, height, 4, width, 4, 3).mean((2, 4))
    assert np.abs(expected * 255 - ours).max() <= 1.01


@pytest.mark.parametrize("form", ["compact", "rrdb", "rrdb-x2"])
async def test_every_architecture(home, form: str) -> None:
    weights = written("realesrgan", form, home)
    net = loaded(home, weights=weights)
    scale = 2 if form == "rrdb-x2" else 4
    assert (await made(net, ODD, scale)).shape == (3, 37 * scale, 51 * scale, 3)
    (*_, done) = await items_of(net, ODD[:1], 2)
    assert isinstance(done, StageDone)
    assert done.source == weights.source


async def test_a_net_makes_no_more_than_it_makes(home) -> None:
    with pytest.raises(InvalidParameter, match="scale: this net makes at most 2, got 4") as caught:
        await made(loaded(home, weights=written("realesrgan", "rrdb-x2", home)), ODD)
    assert caught.value.param == "scale"


@pytest.mark.parametrize("side", [16, 40])
async def test_tiles_have_no_seam(home, footage, side: int) -> None:
    part = np.ascontiguousarray(footage[:, 40:131, 60:177])
    whole = await made(loaded(home, tile=0), part)
    assert farthest(await made(loaded(home, tile=side), part), whole) <= 1  # at most a rounding error
    # The margin is the reason: with too small a margin there are seams.
    assert farthest(await made(loaded(home, tile=side, tile_margin=1), part), whole) > 3


def test_in_numbers_too_tiles_are_the_whole(home) -> None:
    """In float64, so that only pixels within the network's reach can make a difference."""
    net = ModelLoader(device="cpu").load_from_file(SHIPPED).model.double().eval()
    assert reach(net) == 18
    pictures = torch.rand(1, 3, 60, 70, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = net(pictures)
        for margin, same in ((18, True), (12, False)):
            pieces = torch.empty_like(whole)
            for tile in tiles(60, 70, 25, margin):
                top, bottom, left, right = tile.seen
                seen = net(pictures[..., top:bottom, left:right])
                inner = seen[..., (tile.top - top) * 4 :, (tile.left - left) * 4 :]
                height, width = (tile.bottom - tile.top) * 4, (tile.right - tile.left) * 4
                pieces[..., tile.top * 4 : tile.bottom * 4, tile.left * 4 : tile.right * 4] = inner[
                    ..., :height, :width
                ]
            assert torch.allclose(pieces, whole, atol=1e-12, rtol=0) is same


def test_tiles_cover_every_pixel_once() -> None:
    for height, width, side in ((1, 1, 5), (37, 51, 16), (32, 32, 16), (10, 10, 0)):
        seen = np.zeros((height, width), int)
        for tile in tiles(height, width, side, 3):
            seen[tile.top : tile.bottom, tile.left : tile.right] += 1
        assert (seen == 1).all()


async def test_how_many_go_together_changes_nothing(home) -> None:
    one, all_of_them = [await made(loaded(home, batch=batch), ODD) for batch in (1, 16)]
    assert farthest(one, all_of_them) <= 1


async def test_half_precision_comes_near(home, footage) -> None:
    full = await made(loaded(home), footage)
    for dtype in ("bfloat16", "float16"):
        half = await made(loaded(home, dtype=dtype), footage)
        assert np.abs(full.astype(int) - half).mean() < 1


async def test_a_picture_gets_sharper_than_by_interpolation(shipped, footage) -> None:
    """With the real weights, edges are sharper than with bicubic interpolation."""

    def edges(pixels: Pixels) -> float:
        return float(np.abs(np.diff(pixels[0].mean(2), axis=1)).max(1).mean())

    bicubic = np.array(Image.fromarray(footage[0]).resize((1280, 720), Image.Resampling.BICUBIC))[None]
    assert edges(await made(shipped, footage)) > 1.2 * edges(bicubic)


def test_whether_it_is_still_wanted_is_asked_before_every_tile(shipped) -> None:
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) == 4:
            raise Cancelled("enough")

    pixels = RANDOM.integers(0, 256, (5, 600, 20, 3), np.uint8)  # two batches of two tiles each, then one more check
    with pytest.raises(Cancelled):
        shipped._model.upscale(pixels, 4, check)
    assert len(asked) == 4


async def test_limits(home) -> None:
    with pytest.raises(LimitExceeded, match="scale: at most 1000 pixels of the result, got 30192"):
        await made(loaded(home, max_area=1000), ODD)


def test_what_is_no_net_is_refused(home, tmp_path) -> None:
    def refused(words: str, **settings: Any) -> None:
        with pytest.raises(ConfigError, match=words):
            RealEsrganModel(RealEsrganSettings(device="cpu", **settings), home)

    weights = Weights(path=tmp_path)
    refused("has 0 weights files", weights=weights)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    refused("a.safetensors is not a supported network", weights=weights)
    (tmp_path / "b.pth").write_bytes(b"no pickle")
    refused("has 2 weights files", weights=weights)
    refused("b.pth is not a supported network", weights=weights, file="b.pth")
    refused("there is no c.pth", weights=weights, file="c.pth")


@pytest.mark.parametrize(("given", "made"), [(1, 1), (4, 4), (3, 1)])
def test_a_net_for_other_channels_is_refused(home, tmp_path, given: int, made: int) -> None:
    net = ESRGAN(in_nc=given, out_nc=made, num_filters=8, num_blocks=1)
    save_file(net.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=f"must map 3 channels to 3 channels, but maps {given} to {made}"):
        RealEsrganModel(RealEsrganSettings(device="cpu", weights=Weights(path=tmp_path)), home)


def test_a_pickle_that_runs_code_is_not_run(home, tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"params": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ConfigError):
        RealEsrganModel(RealEsrganSettings(device="cpu", weights=Weights(path=tmp_path)), home)
    assert not (tmp_path / "harm").exists()


def test_averaging_is_exact_for_any_ratio() -> None:
    pictures = torch.rand(1, 3, 12, 20, dtype=torch.float64)
    repeated = pictures.repeat_interleave(3, 2).repeat_interleave(3, 3)
    expected = torch.nn.functional.avg_pool2d(repeated, 4)
    assert torch.allclose(averaged(pictures, 9, 15), expected)


def test_a_file_by_address_is_loaded(tmp_path) -> None:
    with serve_file() as server:
        server.body = SHIPPED.read_bytes()
        file = WebFile(
            url=f"{server.url}/net.safetensors", sha256=hashlib.sha256(server.body).hexdigest(), licence="BSD"
        )
        settings = RealEsrganSettings(device="cpu", dtype="float32", weights=file)
        assert RealEsrganModel(settings, tmp_path).scale == 4
    assert (settings.source, settings.revision) == ("net.safetensors", "")
