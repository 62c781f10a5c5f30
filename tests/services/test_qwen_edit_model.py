"""Qwen-Image-Edit with random weights: the pipeline's own pixels; guidance and settings that take effect."""

import asyncio
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as edit_plus
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from miniatures.random import written
from miniatures.random.qwen_edit import write
from services.errors import ConfigError, ModelFailed
from services.frames import Fact, Frames, Item, Pixels, Progress, Sketch
from services.levers import StepCache
from services.qwen_edit.guidance import EDGES
from services.qwen_edit.model import STYLES_KEPT, repair_text_encoder
from services.qwen_edit.request import EditRequest, Guidance
from services.qwen_edit.scores import PerceptualDistance
from services.qwen_edit.service import QwenEdit
from services.weights.local import resolve
from services.weights.weights import Weights
from tests.services.qwen import AREAS, loaded, pixels_of, scores_of

RANDOM = np.random.default_rng(7)
WIDTH, HEIGHT = 64, 48
PICTURE, OTHER = (Frames(RANDOM.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)) for _ in range(2))
TALL = Frames(RANDOM.integers(0, 256, (1, 90, 40, 3), np.uint8))
EDGES_16 = Frames(np.where(np.indices((1, HEIGHT, WIDTH, 3))[2] // 8 % 2, 255, 0).astype(np.uint8))
"""Edges: bars 16 pixels apart."""
UNGUIDED = Guidance(edge_scale=0)
FIELDS = {"prompt": "a boat", "steps": 4, "seed": 3, "true_cfg_scale": 1.0, "ttlg": UNGUIDED}
REQUEST = EditRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def qwen(home) -> QwenEdit:
    """The service without scoring networks."""
    return loaded(home)


@pytest.fixture(scope="module")
def seeing(home) -> QwenEdit:
    """The service with scoring networks."""
    return loaded(home, vgg16="random", lpips="random")


@pytest.fixture(scope="module")
def plain(qwen) -> Pixels:
    """The result of REQUEST, PICTURE and EDGES_16 with default settings."""
    return asyncio.run(made(qwen))


@pytest.fixture(scope="module")
def guided(qwen) -> Pixels:
    return asyncio.run(made(qwen, changed(ttlg=Guidance())))


async def collected(
    qwen: QwenEdit,
    request: EditRequest = REQUEST,
    image: Frames = PICTURE,
    edges: Frames | None = EDGES_16,
    first: Frames | None = None,
    references: Sequence[Frames] = (),
) -> list[Item]:
    return [item async for item in qwen.edit(request, image, edges, first, references=references)]


async def made(
    qwen: QwenEdit,
    request: EditRequest = REQUEST,
    image: Frames = PICTURE,
    edges: Frames | None = EDGES_16,
    references: Sequence[Frames] = (),
) -> Pixels:
    return pixels_of(await collected(qwen, request, image, edges, references=references))


def sketches_of(items: list[Item]) -> dict[str, Pixels]:
    return {item.name: item.picture.pixels[0] for item in items if isinstance(item, Sketch)}


def changed(**fields) -> EditRequest:
    return EditRequest(**{**FIELDS, **fields})


def pipeline_of(home: Path) -> Any:
    """diffusers' own pipeline with an unrepaired text encoder, and pictures scaled to the same areas as in `loaded`."""
    edit_plus.VAE_IMAGE_SIZE, edit_plus.CONDITION_IMAGE_SIZE = AREAS
    folder = resolve(written("qwen-edit", "tiny", home), home)
    pipe = QwenImageEditPlusPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture_of(frames: Frames) -> Image.Image:
    return Image.fromarray(frames.pixels[0])


@contextmanager
def calls_of(module: torch.nn.Module) -> Iterator[list[int]]:
    """Record the calls of a module within the block."""
    calls: list[int] = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(
    ("edges", "references"),
    [(EDGES_16, ()), (None, ()), (EDGES_16, (OTHER,)), (None, (OTHER, TALL))],
    ids=["edges", "no edges", "edges and a reference", "two references"],
)
async def test_without_guidance_the_picture_is_the_pipeline_s_own(home, qwen, edges, references, scale):
    pipe = pipeline_of(home)
    repair_text_encoder(pipe.text_encoder)
    own = pipe(
        image=[picture_of(frames) for frames in (edges, PICTURE, *references) if frames is not None],
        prompt="a boat",
        negative_prompt=" " if scale > 1 else None,
        true_cfg_scale=scale,
        width=WIDTH,
        height=HEIGHT,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
        max_sequence_length=1024,
    ).images[0]
    ours = await made(qwen, changed(true_cfg_scale=scale), edges=edges, references=references)
    assert np.array_equal(ours[0], np.array(own))


async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(qwen, plain, guided):
    assert plain.shape == (1, HEIGHT, WIDTH, 3)
    assert plain.std() > 5
    assert np.array_equal(await made(qwen), plain)
    assert not np.array_equal(await made(qwen, changed(seed=4)), plain)
    assert np.array_equal(await made(qwen, changed(ttlg=Guidance())), guided)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a house"},
        {"prompt": "将图 2 变形，夜晚的城市"},
        {"prompt": "🦊🌈👩‍🚀 \u202e ﷽"},
        {"prompt": ""},
        {"true_cfg_scale": 4.0},
        {"steps": 5},
        {"edge_filter": "laplacian"},
        {"ttlg": Guidance()},
    ],
)
async def test_what_is_asked_for_matters(qwen, plain, fields):
    assert not np.array_equal(await made(qwen, changed(**fields)), plain)


async def test_what_is_given_matters(qwen, plain):
    assert not np.array_equal(await made(qwen, image=OTHER), plain)
    assert not np.array_equal(await made(qwen, edges=OTHER), plain)
    assert not np.array_equal(await made(qwen, edges=None), plain)
    with_other, with_tall, with_itself = [
        await made(qwen, references=references) for references in ((OTHER,), (TALL,), (PICTURE,))
    ]
    assert not np.array_equal(with_other, plain)
    assert not np.array_equal(with_other, with_tall)
    assert not np.array_equal(with_other, with_itself)
    one_way, other_way = [await made(qwen, edges=None, references=each) for each in ((OTHER, TALL), (TALL, OTHER))]
    assert not np.array_equal(one_way, other_way)
    blank, blurred = [await made(qwen, changed(true_cfg_scale=4.0, negative_prompt=text)) for text in (" ", "blurred")]
    assert not np.array_equal(blank, blurred)


async def test_pictures_that_may_not_be_written_to_are_fine(qwen, guided):
    pictures = [frames.pixels.copy() for frames in (PICTURE, EDGES_16)]
    for pixels in pictures:
        pixels.flags.writeable = False
    image, edges = map(Frames, pictures)
    assert np.array_equal(await made(qwen, changed(ttlg=Guidance()), image, edges), guided)


async def test_a_picture_beyond_the_area_is_sampled_smaller_and_enlarged_again(home, qwen):
    big = Frames(RANDOM.integers(0, 256, (1, 100, 130, 3), np.uint8))
    pipe = pipeline_of(home)
    repair_text_encoder(pipe.text_encoder)
    small = pipe(
        image=[picture_of(big)],
        prompt="a boat",
        true_cfg_scale=1.0,
        width=64,
        height=48,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    ours = await made(qwen, changed(max_area=65 * 50), big, None)
    assert np.array_equal(ours[0], np.array(small.resize((130, 100), Image.Resampling.LANCZOS)))


# --- the text encoder's positions ---------------------------------------------------------------------------------


def conditions() -> list[Image.Image]:
    return [picture_of(frames).resize((112, 112)) for frames in (EDGES_16, PICTURE)]


@torch.no_grad()
def test_without_the_repair_pictures_have_no_place_in_two_dimensions(home):
    pipe = pipeline_of(home)
    bare, _ = pipe.encode_prompt("a boat", conditions())
    told: list[Tensor] = []
    forward = pipe.text_encoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: told.append(kwargs), with_kwargs=True
    )
    bare_text, _ = pipe.encode_prompt("a boat", None)
    forward.remove()
    for _ in range(2):  # a second repair changes nothing
        repair_text_encoder(pipe.text_encoder)
        repaired, _ = pipe.encode_prompt("a boat", conditions())
        text = "".join(f"Picture {n}: <|vision_start|><|image_pad|><|vision_end|>" for n in (1, 2)) + "a boat"
        inputs = pipe.processor(
            text=[pipe.prompt_template_encode.format(text)], images=conditions(), padding=True, return_tensors="pt"
        )
        assert set(inputs) >= {"mm_token_type_ids", "pixel_values"}
        assert inputs["mm_token_type_ids"].sum() == 2 * (112 // 28) ** 2
        explicit = pipe.text_encoder(**inputs, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(repaired, explicit[:, pipe.prompt_template_encode_start_idx :])
        assert not torch.allclose(repaired, bare, atol=1e-4)
    assert torch.equal(pipe.encode_prompt("a boat", None)[0], bare_text)
    assert told  # prompts without pictures are unaffected


@torch.no_grad()
def test_types_that_are_given_are_left_as_they_are(home):
    pipe = pipeline_of(home)
    text = "<|vision_start|><|image_pad|><|vision_end|>a boat"
    inputs = pipe.processor(text=[text], images=conditions()[:1], return_tensors="pt")
    inputs["mm_token_type_ids"] = torch.zeros_like(inputs["mm_token_type_ids"])
    before = pipe.text_encoder(**inputs).logits
    repair_text_encoder(pipe.text_encoder)
    assert torch.equal(pipe.text_encoder(**inputs).logits, before)


# --- guidance -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "most", "ttlg"),
    [
        ("edge_loss", 0.95, Guidance()),
        ("edge_loss", 0.98, Guidance(edge_size=32, lr=0.2)),
        ("gram_loss", 0.98, Guidance(edge_scale=0, gram_scale=1, gram_size=64)),
        ("temporal_loss", 0.98, Guidance(edge_scale=0, temporal_scale=1, lr=0.1)),
    ],
    ids=["edges", "small edges", "style", "the frame before"],
)
async def test_guidance_lowers_its_loss(seeing, name, most, ttlg):
    ratios: list[float] = []
    for seed in range(3):
        without, under = [
            scores_of(await collected(seeing, changed(seed=seed, ttlg=setting)))
            for setting in (Guidance(edge_scale=0, gram_size=ttlg.gram_size, edge_size=ttlg.edge_size), ttlg)
        ]
        ratios.append(getattr(under, name) / getattr(without, name))
    assert statistics.median(ratios) <= most


async def test_references_change_neither_what_is_scored_nor_the_size(seeing):
    request = changed(ttlg=Guidance(gram_scale=0.1))
    scores = scores_of(await collected(seeing, request, references=(TALL,)))
    items = await collected(seeing, request, references=(TALL,))
    assert pixels_of(items).shape == PICTURE.pixels.shape
    measured = await collected(seeing, changed(debug=True, ttlg=Guidance(gram_scale=0.1)), references=(TALL,))
    assert np.array_equal(sketches_of(measured)["target_edges"], EDGES_16.pixels[0])
    assert scores.lpips_to_init == scores.lpips_to_prev


async def test_steps_outside_the_window_are_not_guided(qwen, plain, guided):
    late = await made(qwen, changed(ttlg=Guidance(start_step=3)))
    assert not np.array_equal(late, plain)
    assert not np.array_equal(late, guided)
    assert np.array_equal(await made(qwen, changed(ttlg=Guidance(last_steps=1))), late)
    assert np.array_equal(await made(qwen, changed(ttlg=Guidance(every=1, end_step=3))), guided)


@pytest.mark.parametrize(("last_steps", "inner_steps", "updates"), [(None, 1, 4), (2, 3, 6)])
async def test_there_are_as_many_updates_as_are_asked_for(qwen, last_steps, inner_steps, updates):
    with calls_of(qwen._model._decoder) as decodings:
        await made(qwen, changed(ttlg=Guidance(last_steps=last_steps, inner_steps=inner_steps)))
        assert len(decodings) == updates
    with calls_of(qwen._model._decoder) as decodings:
        await made(qwen)
        assert decodings == []


@pytest.mark.parametrize("edge_filter", ["sobel", "laplacian"])
async def test_edges_are_taken_from_an_ordinary_picture(qwen, edge_filter):
    picture = torch.tensor(OTHER.pixels).permute(0, 3, 1, 2).float() / 255
    edges = EDGES[edge_filter](picture)
    drawn = (edges / edges.max() * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    given = Frames(np.ascontiguousarray(drawn.numpy()))
    taken = await collected(qwen, changed(edge_filter=edge_filter, debug=True), edges=OTHER)
    assert np.array_equal(pixels_of(taken), await made(qwen, edges=given))
    assert np.array_equal(sketches_of(taken)["target_edges"], given.pixels[0])


async def test_edges_in_what_is_made_are_found_as_in_what_was_given(qwen):
    losses: list[float | None] = []
    for edge_filter in ("none", "sobel", "laplacian"):
        items = await collected(qwen, changed(edge_filter=edge_filter, debug=True), edges=OTHER)
        soft = sketches_of(items)["soft_edges"]
        operator = EDGES["laplacian" if edge_filter == "laplacian" else "sobel"]
        found = operator(torch.tensor(pixels_of(items)).permute(0, 3, 1, 2).float() / 255)[0, 0]
        assert np.abs(soft[..., 0] - (found / found.max() * 255).numpy()).max() <= 1
        losses.append(scores_of(items).edge_loss)
    assert len(set(losses)) == 3


async def test_sketches_show_how_a_frame_was_made_and_change_nothing(qwen, guided):
    items = await collected(qwen, changed(ttlg=Guidance(), debug=True))
    assert np.array_equal(pixels_of(items), guided)
    sketches = sketches_of(items)
    assert list(sketches) == ["target_edges", "soft_edges", "before_guidance", "after_guidance"]
    assert {pixels.shape for pixels in sketches.values()} == {(HEIGHT, WIDTH, 3)}
    assert np.array_equal(sketches["target_edges"], EDGES_16.pixels[0])
    assert all(pixels.std() > 5 for pixels in sketches.values())
    assert not np.array_equal(sketches["before_guidance"], sketches["after_guidance"])
    # The result of the last update is what is decoded afterwards.
    assert np.abs(sketches["after_guidance"].astype(int) - guided[0]).max() <= 1


async def test_a_smaller_edge_size_decodes_smaller(qwen):
    sketches = sketches_of(await collected(qwen, changed(ttlg=Guidance(edge_size=32), debug=True)))
    assert sketches["before_guidance"].shape == sketches["after_guidance"].shape == (32, 32, 3)
    assert sketches["target_edges"].shape == (HEIGHT, WIDTH, 3)


async def test_the_first_frame_s_style_is_computed_once_for_a_clip(seeing):
    def clip(brightness: int) -> Frames:
        return Frames(np.full((1, HEIGHT, WIDTH, 3), brightness, np.uint8))

    async def looks(first: Frames, gram_size: int = 224) -> int:
        """Return the number of VGG16's calls for one frame, without the one for the frame's score."""
        with calls_of(seeing._model._vgg16) as calls:
            ttlg = Guidance(edge_scale=0, gram_size=gram_size)
            await collected(seeing, changed(steps=2, ttlg=ttlg), first=first)
            return len(calls) - 1

    assert [await looks(clip(1)), await looks(clip(1)), await looks(clip(1))] == [1, 0, 0]
    assert [await looks(clip(1), 32), await looks(clip(1), 32), await looks(clip(1))] == [1, 0, 0]
    for brightness in range(2, 2 + STYLES_KEPT):
        assert await looks(clip(brightness)) == 1
    assert [await looks(clip(1 + STYLES_KEPT)), await looks(clip(1))] == [0, 1]


# --- scoring networks ---------------------------------------------------------------------------------------------


def alexnet() -> dict[str, Tensor]:
    """Return random weights of AlexNet with torchvision's names."""
    from torchvision.models import alexnet as torchvision_alexnet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {f"features.{name}": weight for name, weight in torchvision_alexnet().features.state_dict().items()}


async def test_without_lpips_only_its_scores_are_missing(home, seeing, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lpips", None)  # as if it were not installed
    with caplog.at_level(logging.WARNING):
        qwen = loaded(home, vgg16="random", lpips="random")
    assert "lpips is not installed (pip install lpips)" in caplog.text
    whole, without = await collected(seeing), await collected(qwen)
    assert np.array_equal(pixels_of(without), pixels_of(whole))
    ours, theirs = scores_of(without), scores_of(whole)
    assert (ours.lpips_to_init, ours.lpips_to_prev) == (None, None)
    assert (ours.edge_loss, ours.gram_loss, ours.temporal_loss) == (
        theirs.edge_loss,
        theirs.gram_loss,
        theirs.temporal_loss,
    )
    assert Fact("lpips", "not there") in without


async def test_the_record_names_the_weights_that_measured(home, tmp_path):
    torch.save(alexnet(), tmp_path / "alexnet-1.pth")
    assert Fact("lpips", "alexnet-1.pth") in await collected(loaded(home, lpips=tmp_path / "alexnet-1.pth"))


def test_other_weights_are_refused(home, tmp_path):
    weights = alexnet()
    torch.save({name: weight for name, weight in weights.items() if "10" not in name}, tmp_path / "less.pth")
    for name in ("vgg16", "lpips"):
        with pytest.raises(ConfigError, match=f"{name}: .*less.pth is not torchvision's checkpoint"):
            loaded(home, **{name: tmp_path / "less.pth"})


def test_the_perceptual_distance_tells_equal_from_unequal(tmp_path):
    one, other = (torch.tensor(frames.pixels).permute(0, 3, 1, 2) / 255 for frames in (PICTURE, OTHER))
    torch.save(alexnet(), tmp_path / "alexnet.pth")
    found: list[float | None] = []
    for source in ("random", tmp_path / "alexnet.pth"):
        metric = PerceptualDistance(source)
        near = metric.between(one, (one * 0.99).clamp(0, 1))
        far = metric.between(one, other)
        assert metric.between(one, one) == 0.0
        assert near is not None
        assert far is not None
        assert 0 < near < far
        assert metric.between(one[..., :31], other[..., :31]) is None
        found.append(far)
    assert found[0] != found[1]


# --- levers -------------------------------------------------------------------------------------------------------


def taehv() -> dict[str, Tensor]:
    """Return small random weights in the layout of TAEHV's decoder."""
    shapes: dict[str, tuple[int, ...]] = {"1.weight": (256, 16, 3, 3), "1.bias": (256,)}
    for first, channels, less in ((3, 256, 128), (9, 128, 64), (15, 64, 64)):
        for block in range(first, first + 3):
            for conv, into in ((0, 2 * channels), (2, channels), (4, channels)):
                shapes[f"{block}.conv.{conv}.weight"] = (channels, into, 3, 3)
                shapes[f"{block}.conv.{conv}.bias"] = (channels,)
        shapes[f"{first + 4}.conv.weight"] = (channels * (1 if first == 3 else 2), channels, 1, 1)
        shapes[f"{first + 5}.weight"] = (less, channels, 3, 3)
    shapes |= {"22.weight": (3, 64, 3, 3), "22.bias": (3,)}
    random = torch.Generator().manual_seed(9)
    scaled = {name: torch.Size(shape[1:]).numel() ** -0.5 if len(shape) > 1 else 0.1 for name, shape in shapes.items()}
    return {f"decoder.{name}": torch.randn(shape, generator=random) * scaled[name] for name, shape in shapes.items()}


async def test_a_tiny_decoder_guides_and_does_not_draw(home, tmp_path, plain, guided):
    save_file(taehv(), tmp_path / "taew2_1.safetensors")
    qwen = loaded(home, tiny_decoder=tmp_path / "taew2_1.safetensors")
    assert np.array_equal(await made(qwen), plain)
    items = await collected(qwen, changed(ttlg=Guidance(), debug=True))
    assert not np.array_equal(pixels_of(items), guided)
    assert not np.array_equal(pixels_of(items), plain)
    assert sketches_of(items)["before_guidance"].shape == (HEIGHT, WIDTH, 3)


async def test_saving_memory_changes_hardly_a_pixel(home, guided):
    other = await made(loaded(home, save_memory=False), changed(ttlg=Guidance()))
    assert np.abs(other.astype(int) - guided).max() <= 2


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"dtype": "bfloat16", "decoder_dtype": "float32"}])
async def test_bfloat16_comes_near_float32(home, plain, guided, settings):
    qwen = loaded(home, **settings)
    for ttlg, whole in ((UNGUIDED, plain), (Guidance(), guided)):
        half = await made(qwen, changed(ttlg=ttlg))
        assert not np.array_equal(half, whole)
        assert np.abs(half.astype(int) - whole).mean() < 8


async def test_the_step_cache_acts_and_forgets_between_requests(home, plain, guided):
    qwen = loaded(home, step_cache=StepCache(threshold=10))
    first = await made(qwen)
    assert not np.array_equal(first, plain)
    assert np.array_equal(await made(qwen), first)
    stream = qwen.edit(REQUEST, OTHER, EDGES_16)
    async for item in stream:
        if isinstance(item, Progress) and item.done == 1:
            break
    await stream.aclose()
    assert np.array_equal(await made(qwen), first)
    never = loaded(home, step_cache=StepCache(threshold=1e-9))
    assert np.array_equal(await made(never), plain)
    assert np.array_equal(await made(never, changed(ttlg=Guidance())), guided)


def test_offloading_needs_a_gpu(home):
    with pytest.raises(ConfigError, match="offload: model needs a GPU"):
        loaded(home, offload="model")


def test_a_folder_that_is_no_checkpoint(home, tmp_path):
    with pytest.raises(ConfigError, match="is not a Qwen-Image-Edit-2509 checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttlg", [UNGUIDED, Guidance()], ids=["unguided", "guided"])
@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "proj_out.weight"), ("vae", "decoder.conv_out.weight")],
)
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_picture(home, tmp_path, part, name, ttlg):
    write("tiny", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    qwen = loaded(home, weights=Weights(path=tmp_path))
    with pytest.raises(ModelFailed, match=r"not finite|is (nan|inf) at step 0"):
        await made(qwen, changed(ttlg=ttlg))
    qwen.check_health()
