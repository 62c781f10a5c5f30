"""Identity conditioning in Flux: its effect by strength, range and key points; without a face nothing changes."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet_flux import FluxControlNetModel
from diffusers.pipelines.flux.pipeline_flux_controlnet import FluxControlNetPipeline
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from miniatures.random import written
from miniatures.random.flux import write
from services.errors import ConfigError, InvalidParameter
from services.flux.identity import COLOURS, CONTROLNET, PROJECTION, Resampler, draw_points, draw_pose, place_points
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings, IdentitySettings
from services.frames import Face, Frames, Pixels, Progress
from services.levers import StepCache
from services.weights.local import resolve
from services.weights.weights import Weights

FIELDS = {"prompt": "a boat", "size": "64x48", "steps": 3, "seed": 3}
POINTS = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)


def find_face(seed: int, points: Any = POINTS) -> Face:
    embedding = np.random.default_rng(seed).normal(size=512).astype(np.float32)
    embedding /= np.float32(np.linalg.norm(embedding))
    return Face(embedding, points, np.array([0.2, 0.2, 0.8, 0.9], np.float32), size=(64, 48))


ADA, BEN = find_face(1), find_face(2)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def flux(home) -> Flux:
    return loaded(home)


@pytest.fixture(scope="module")
def plain(flux) -> Pixels:
    """Return the picture without a face."""
    return asyncio.run(made(flux))


@pytest.fixture(scope="module")
def ada(flux) -> Pixels:
    return asyncio.run(made(flux, ADA))


def loaded(home: Path, **more) -> Flux:
    identity = IdentitySettings(weights=written("flux", "identity", home))
    fields = {"weights": written("flux", "tiny", home), "identity": identity, "device": "cpu", "dtype": "float32"}
    return Flux(FluxSettings(**{**fields, "max_sequence_length": 32, **more}), home, lambda: "flux#test cpu")


async def made(flux: Flux, face: Face | None = None, pose: Face | None = None, **fields) -> Pixels:
    items = [item async for item in flux.generate_image(FluxRequest(**{**FIELDS, **fields}), face, pose=pose)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


@pytest.fixture
def nets(home, tmp_path) -> Path:
    """Return a copy of the networks, which the test may damage."""
    folder = tmp_path / "nets"
    folder.mkdir()
    write("identity", folder)
    return folder


# --- effect of a face --------------------------------------------------------------------------------------------


async def test_the_same_face_is_the_same_and_another_another(flux, plain, ada):
    ben = await made(flux, BEN)
    assert np.array_equal(await made(flux, ADA), ada)
    assert len({picture.tobytes() for picture in (plain, ada, ben)}) == 3
    assert np.abs(ada.astype(int) - ben).mean() > 1


async def test_without_a_face_nothing_has_changed(home, flux, plain):
    assert np.array_equal(plain, await made(loaded(home, identity=None)))
    await made(flux, ADA)
    assert np.array_equal(await made(flux), plain)


async def test_no_strength_is_no_face(flux, plain, ada):
    assert np.array_equal(await made(flux, ADA, identity_strength=0), plain)
    # The noise is the same, so a weak face changes the picture only a little.
    assert np.abs((await made(flux, ADA, identity_strength=1e-7)).astype(int) - plain).max() <= 1
    assert not np.array_equal(await made(flux, ADA, identity_strength=0.5), ada)


async def test_it_acts_in_its_window(flux, plain, ada):
    early = await made(flux, ADA, identity_end=0.5)
    late = await made(flux, ADA, identity_start=0.5)
    assert len({picture.tobytes() for picture in (plain, ada, early, late)}) == 4
    assert np.array_equal(await made(flux, ADA, identity_start=0.4, identity_end=0.41), plain)  # no step in range


async def test_outside_its_window_the_net_is_not_computed(flux):
    blocks = []
    controlnet = flux._model._identity.controlnet
    hook = controlnet.transformer_blocks[0].register_forward_hook(lambda *_: blocks.append(1))
    await made(flux, ADA, steps=4, identity_start=0.25, identity_end=0.75)
    hook.remove()
    assert len(blocks) == 2


async def test_the_points_matter(flux, ada):
    poses = [await made(flux, ADA, find_face(1, points)) for points in (POINTS, POINTS[:, ::-1].copy())]
    assert len({picture.tobytes() for picture in (*poses, ada)}) == 3
    assert np.array_equal(await made(flux, ADA, find_face(2, POINTS)), poses[0]), "only the key points of a pose matter"


async def test_a_pose_without_the_size_of_its_photo_is_refused(flux):
    with pytest.raises(InvalidParameter) as caught:
        await made(flux, ADA, replace(ADA, size=None))
    assert (caught.value.param, caught.value.message[:44]) == (
        "face_pose",
        "face_pose: the size of the photo is unknown;",
    )


async def test_the_net_hears_the_face_and_not_the_prompt(flux):
    heard = []
    controlnet = flux._model._identity.controlnet
    hook = controlnet.context_embedder.register_forward_hook(lambda _module, args, _out: heard.append(args[0]))
    await made(flux, ADA, steps=1)
    await made(flux, ADA, steps=1, prompt="a red house")
    hook.remove()
    assert heard[0].shape == (1, 8, 32)
    assert torch.equal(heard[0], heard[1])
    assert torch.equal(heard[0], flux._model._identity.tokens(ADA))
    assert controlnet.tokens is None


@pytest.mark.parametrize("pose", [None, ADA], ids=["black", "posed"])
async def test_pixels_are_those_of_the_pipeline_itself(home, flux, pose):
    """The reference gets the same latents, and hooks replace the prompt by the tokens at a guidance of 1."""
    folder = resolve(written("flux", "identity", home), home)
    pipe: Any = FluxControlNetPipeline.from_pretrained(
        resolve(written("flux", "tiny", home), home),
        controlnet=FluxControlNetModel.from_pretrained(folder / CONTROLNET),
        local_files_only=True,
    )
    pipe.set_progress_bar_config(disable=True)
    tokens = Resampler.of(load_file(folder / PROJECTION)).eval()(torch.tensor(ADA.embedding)[None, None]).detach()

    def told(_module, args, kwargs):
        return args, {
            **kwargs,
            "encoder_hidden_states": tokens,
            "txt_ids": torch.zeros(8, 3),
            "guidance": torch.ones(1),
        }

    pipe.controlnet.register_forward_pre_hook(told, with_kwargs=True)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 16, 6, 8, generator=generator)
    unit = pipe(
        prompt="a boat",
        latents=pipe._pack_latents(noise, 1, 16, 6, 8),
        width=64,
        height=48,
        num_inference_steps=3,
        guidance_scale=3.5,
        control_image=draw_points(POINTS * (64, 48), 64, 48) if pose else Image.new("RGB", (64, 48)),
        controlnet_conditioning_scale=0.7,
        control_guidance_start=0.2,
        control_guidance_end=0.9,
        generator=generator,
        max_sequence_length=32,
        output_type="np",
    ).images
    pixels = await made(flux, ADA, pose, identity_strength=0.7, identity_start=0.2, identity_end=0.9)
    assert np.array_equal(pixels, (unit * 255).round().astype(np.uint8))


async def test_several_pictures_and_guidance_by_a_negative_prompt(flux, ada):
    two = await made(flux, ADA, n=2)
    assert np.array_equal(two[:1], ada)
    assert np.array_equal(two[1:], await made(flux, ADA, seed=4))
    assert not np.array_equal(await made(flux, ADA, true_cfg_scale=4.0), ada)


async def test_closing_the_stream_forgets_the_face(flux, plain, ada):
    async with aclosing(flux.generate_image(FluxRequest(**{**FIELDS, "steps": 100}), BEN)) as stream:
        async for item in stream:
            if isinstance(item, Progress) and item.done == 1:
                break
    assert flux._model._identity.controlnet.tokens is None
    assert np.array_equal(await made(flux), plain)
    assert np.array_equal(await made(flux, ADA), ada)


async def test_a_step_cache_rests_while_a_face_acts(home, flux, plain, ada):
    cached = loaded(home, step_cache=StepCache(threshold=10), preview_every=1)
    skipped = await made(cached)
    assert not np.array_equal(skipped, plain)
    assert np.array_equal(await made(cached, ADA), ada)
    assert np.array_equal(await made(cached), skipped)


async def test_bfloat16(home, ada):
    half = await made(loaded(home, dtype="bfloat16"), ADA)
    assert np.abs(half.astype(int) - ada).mean() < 16


# --- networks -----------------------------------------------------------------------------------------------------


def test_the_names_of_the_parameters_are_those_of_the_published_file(nets):
    assert set(load_file(nets / PROJECTION)) == {
        "latents",
        *(f"{layer}.{kind}" for layer in ("proj_in", "proj_out", "norm_out") for kind in ("weight", "bias")),
        *(
            f"layers.{index}.{name}"
            for index in range(2)
            for name in (
                *(f"0.{norm}.{kind}" for norm in ("norm1", "norm2") for kind in ("weight", "bias")),
                *(f"0.{projection}.weight" for projection in ("to_q", "to_kv", "to_out")),
                *("1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight"),
            )
        ),
    }


def test_a_net_of_the_published_size_is_built_from_its_parameters():
    whole = Resampler(dim=1280, depth=1, heads=20, queries=8, output_dim=4096)
    again = Resampler.of(whole.state_dict())
    embedding = torch.randn(1, 1, 512, generator=torch.Generator().manual_seed(1))
    assert again(embedding).shape == (1, 8, 4096)
    assert torch.equal(again(embedding), whole(embedding))


async def test_the_file_may_be_a_pickle_of_tensors_in_a_subfolder(home, nets, ada):
    torch.save({"image_proj": load_file(nets / PROJECTION), "ip_adapter": {}}, nets / "image_proj_model.bin")
    (nets / PROJECTION).unlink()
    identity = IdentitySettings(weights=Weights(path=nets.parent), subfolder=nets.name)
    assert np.array_equal(await made(loaded(home, identity=identity), ADA), ada)


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_of_anything_else_is_not_opened(home, nets):
    torch.save({"image_proj": Payload(nets / "ran")}, nets / "image_proj_model.bin")
    (nets / PROJECTION).unlink()
    with pytest.raises(ConfigError, match=r"identity: image_proj_model\.safetensors cannot be loaded as a "):
        loaded(home, identity=IdentitySettings(weights=Weights(path=nets)))
    assert not (nets / "ran").exists()


@pytest.mark.parametrize("fault", ["no net", "no tokens", "another net", "not a file of tensors"])
def test_a_folder_without_the_nets(home, nets, fault):
    if fault == "no net":
        (nets / CONTROLNET / "config.json").unlink()
    elif fault == "no tokens":
        (nets / PROJECTION).unlink()
    elif fault == "another net":
        save_file({"weight": torch.ones(2)}, nets / PROJECTION)
    else:
        (nets / PROJECTION).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"identity: .* cannot be loaded as a "):
        loaded(home, identity=IdentitySettings(weights=Weights(path=nets)))


def test_a_projection_of_another_embedding(home, nets):
    tensors = load_file(nets / PROJECTION)
    save_file(tensors | {"proj_in.weight": torch.ones(len(tensors["proj_in.weight"]), 768)}, nets / PROJECTION)
    with pytest.raises(ConfigError, match="projects embeddings of 768 numbers, but those of faces have 512"):
        loaded(home, identity=IdentitySettings(weights=Weights(path=nets)))


def test_nets_for_another_transformer(home, nets):
    config = json.loads((nets / CONTROLNET / "config.json").read_text())
    tensors = load_file(nets / PROJECTION)
    tensors |= {"proj_out.weight": torch.ones(48, 32), "proj_out.bias": torch.ones(48)}
    tensors |= {"norm_out.weight": torch.ones(48), "norm_out.bias": torch.ones(48)}
    save_file(tensors, nets / PROJECTION)
    with pytest.raises(ConfigError, match="the tokens have 48 channels, but the ControlNet needs 32"):
        loaded(home, identity=IdentitySettings(weights=Weights(path=nets)))
    write("identity", nets)
    narrow = {**{key: value for key, value in config.items() if key[0] != "_"}, "num_attention_heads": 1}
    FluxControlNetModel(**narrow).save_pretrained(nets / CONTROLNET)
    with pytest.raises(ConfigError, match="the ControlNet has num_attention_heads 1, but the transformer has 2"):
        loaded(home, identity=IdentitySettings(weights=Weights(path=nets)))


# --- key points ---------------------------------------------------------------------------------------------------


def test_points_are_drawn_in_their_colours_over_darker_limbs():
    picture = np.array(draw_points(POINTS * (400, 200), 400, 200))
    assert picture.shape == (200, 400, 3)
    for (x, y), colour in zip(POINTS, COLOURS, strict=True):
        assert tuple(picture[int(y * 200), int(x * 400)]) == colour
    for index in (0, 1, 3, 4):
        x, y = (POINTS[index] + POINTS[2]) / 2
        assert tuple(picture[int(y * 200), int(x * 400)]) == tuple(int(level * 0.6) for level in COLOURS[index])
    assert (picture[:40] == 0).all()
    assert 300 < np.all(picture == (255, 0, 0), 2).sum() < 360  # a disc of radius 10


PORTRAIT = np.array([[0.40, 0.30], [0.60, 0.30], [0.50, 0.37], [0.43, 0.44], [0.57, 0.44]], np.float32)


def list_distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(5, 1)]


@pytest.mark.parametrize("size", [(1024, 1024), (1344, 768), (768, 1344)])
@pytest.mark.parametrize("photo", [(1080, 1920), (1920, 1080), (512, 512)])
@pytest.mark.parametrize("move", [0.0, -0.29, 0.5])
def test_a_face_keeps_its_proportions(photo, size, move):
    face = replace(find_face(1, PORTRAIT + np.array([0, move], np.float32)), size=photo)
    placed = place_points(face, *size)
    proportions = list_distances(placed) / list_distances(face.keypoints * np.array(photo))
    assert proportions == pytest.approx(proportions.mean(), rel=1e-3)
    assert proportions.mean() == pytest.approx(
        size[0] / photo[0] if size[0] <= size[1] else size[1] / photo[1], rel=1e-3
    )
    assert (placed >= 0).all()
    assert (placed <= size).all()


def test_a_face_lies_where_its_photo_is_placed():
    """The photo is scaled to the shorter side of the picture and centred; worked out by hand."""
    face = replace(find_face(1, PORTRAIT), size=(1080, 1920))
    assert place_points(face, 1024, 1024)[2] == pytest.approx((512, 0.37 * 1920 * 1024 / 1080 - 398.2), abs=0.1)
    assert place_points(face, 1344, 768)[0] == pytest.approx((456 + 0.4 * 432, 0.3 * 768), abs=0.1)
    assert place_points(face, 768, 1344)[1] == pytest.approx((0.6 * 768, 0.3 * 1365.33 - 10.67), abs=0.1)


def test_drawn_discs_keep_the_proportions():
    for size in ((1024, 1024), (1344, 768), (768, 1344)):
        picture = np.array(draw_pose(replace(find_face(1, PORTRAIT), size=(1080, 1920)), *size))
        discs = np.array([np.argwhere(np.all(picture == colour, 2)).mean(0)[::-1] for colour in COLOURS])
        expected = list_distances(PORTRAIT * np.array([1080, 1920]))
        drawn = list_distances(discs)
        assert drawn / drawn[0] == pytest.approx(expected / expected[0], rel=0.01)


def test_without_a_pose_the_control_picture_is_black():
    picture = np.array(draw_pose(None, 1344, 768))
    assert picture.shape == (768, 1344, 3)
    assert not picture.any()


@pytest.mark.parametrize("variant", ["aes_stage2", "sim_stage1"])
async def test_both_published_variants_can_be_chosen(home, tmp_path, ada, variant):
    folder = tmp_path / "InfiniteYou" / "infu_flux_v1.0" / variant
    folder.mkdir(parents=True)
    write("identity", folder)
    identity = IdentitySettings(weights=Weights(path=tmp_path / "InfiniteYou"), variant=variant)
    assert np.array_equal(await made(loaded(home, identity=identity), ADA), ada)


def test_of_a_repository_only_the_variant_is_downloaded():
    hub = {"repository": "ByteDance/InfiniteYou", "revision": "0" * 40}
    chosen = IdentitySettings.model_validate({"weights": hub, "variant": "sim_stage1"})
    assert chosen.weights.files == ("infu_flux_v1.0/sim_stage1/*",)
    assert IdentitySettings.model_validate({"weights": hub}).weights.files == ()
    own = IdentitySettings.model_validate({"weights": {**hub, "files": ["*"]}, "variant": "sim_stage1"})
    assert own.weights.files == ("*",)
    with pytest.raises(ValidationError, match="variant: give either this or subfolder, got sim_stage1 and a"):
        IdentitySettings.model_validate({"weights": hub, "variant": "sim_stage1", "subfolder": "a"})
    with pytest.raises(ValidationError, match="'aes_stage2' or 'sim_stage1'"):
        IdentitySettings.model_validate({"weights": hub, "variant": "aes_stage1"})


def test_points_that_fall_together_or_outside():
    assert np.array(draw_points(np.full((5, 2), 32, np.float32), 64, 64)).any()
    assert not np.array(draw_points(np.full((5, 2), 448, np.float32), 64, 64)).any()
