"""What runs a model, at the full size of its checkpoint, on the meta device: shapes are computed, and no values."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from services.flux.identity import IdentityControlNet, Resampler
from services.hunyuan_dit.model import ChunkedFeedForward
from services.instantid.arcface import ArcFace
from services.qwen_edit.decoders import StillDecoder, shrunk, unpacked
from services.qwen_edit.guidance import (
    Losses,
    Reference,
    Vgg16Features,
    fitted,
    laplacian_edges,
    sobel_edges,
)
from services.qwen_edit.request import Guidance
from services.svd.model import decode as decode_svd
from services.text_to_video.model import _feed_by_frames as feed_by_frames
from services.wan.model import decode as decode_wan
from services.wan.model import denormalise
from services.weights.networks import build_network
from tests.real.published import find_component, read_tensors

META = torch.device("meta")

I2V, T2V, TI2V = (f"Wan-AI/Wan2.2-{name}-Diffusers" for name in ("I2V-A14B", "T2V-A14B", "TI2V-5B"))
DEV, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"
INFINITE_YOU = "ByteDance/InfiniteYou"
EDIT_2509, EDIT_2511 = "Qwen/Qwen-Image-Edit-2509", "Qwen/Qwen-Image-Edit-2511"
SVD, SVD_XT = "stabilityai/stable-video-diffusion-img2vid", "stabilityai/stable-video-diffusion-img2vid-xt"
HUNYUAN = "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled"
MS = "ali-vilab/text-to-video-ms-1.7b"
INTERNVL = "OpenGVLab/InternVL3_5-8B-HF"


@cache
def network(repository: str, name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    return build_network(find_component(repository, name), dtype)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def tokens(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.long, device=META)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("repository", "expert", "frames", "width", "height"),
    [
        (I2V, "transformer", 81, 1280, 720),
        (I2V, "transformer_2", 121, 1280, 720),
        (I2V, "transformer", 81, 832, 480),
        (T2V, "transformer", 81, 1280, 720),
        (T2V, "transformer_2", 81, 720, 1280),
    ],
)
def test_wan_a14b_denoises(repository: str, expert: str, frames: int, width: int, height: int) -> None:
    net = network(repository, expert)
    shape = ((frames - 1) // 4 + 1, height // 8, width // 8)
    made = net(empty(1, net.config.in_channels, *shape), tokens(1), empty(1, 512, 4096), return_dict=False)[0]
    assert shape_of(made) == (1, 16, *shape)


def test_wan_ti2v_denoises_with_a_time_step_for_each_token() -> None:
    latents = empty(1, 48, 31, 44, 80)
    made = network(TI2V, "transformer")(latents, tokens(1, 31 * 22 * 40), empty(1, 512, 4096), return_dict=False)[0]
    assert made.shape == latents.shape


@pytest.mark.parametrize(
    ("repository", "latents", "video"),
    [
        (I2V, (16, 21, 90, 160), (81, 720, 1280)),
        (I2V, (16, 31, 90, 160), (121, 720, 1280)),
        (TI2V, (48, 31, 44, 80), (121, 704, 1280)),
    ],
)
def test_wan_decodes_one_latent_frame_at_a_time(
    repository: str, latents: tuple[int, ...], video: tuple[int, ...]
) -> None:
    vae = network(repository, "vae", torch.float32)
    parts = [shape_of(part) for part in decode_wan(vae, denormalise(vae, empty(1, *latents, dtype=torch.float32)))]
    assert [part[2] for part in parts] == [1] + [4] * (latents[1] - 1)
    assert sum(part[2] for part in parts) == video[0]
    assert {(*part[:2], *part[3:]) for part in parts} == {(1, 3, *video[1:])}


@pytest.mark.parametrize(
    ("repository", "frames", "height", "latents"),
    [(I2V, 81, 720, (16, 21, 90, 160)), (TI2V, 1, 704, (48, 1, 44, 80))],
)
def test_wan_encodes_its_condition(repository: str, frames: int, height: int, latents: tuple[int, ...]) -> None:
    vae = network(repository, "vae", torch.float32)
    clip = empty(1, 3, frames, height, 1280, dtype=torch.float32)
    assert shape_of(vae.encode(clip).latent_dist.mean) == (1, *latents)


@pytest.mark.parametrize(
    ("repository", "name", "length", "width"),
    [(I2V, "text_encoder", 512, 4096), (DEV, "text_encoder_2", 512, 4096), (HUNYUAN, "text_encoder_2", 256, 2048)],
)
def test_t5_encodes_a_prompt(repository: str, name: str, length: int, width: int) -> None:
    encoded = network(repository, name)(input_ids=tokens(1, length)).last_hidden_state
    assert shape_of(encoded) == (1, length, width)


@pytest.mark.parametrize(
    ("repository", "hidden", "pooled"),
    [(DEV, (77, 768), (768,)), (HUNYUAN, (77, 1024), (1024,)), (MS, (77, 1024), (1024,))],
)
def test_clip_and_bert_encode_a_prompt(repository: str, hidden: tuple[int, ...], pooled: tuple[int, ...]) -> None:
    encoded = network(repository, "text_encoder")(input_ids=tokens(1, 77))
    assert shape_of(encoded.last_hidden_state) == (1, *hidden)
    assert shape_of(encoded.pooler_output) == (1, *pooled)


def flux_inputs(net: Any, width: int, height: int) -> dict[str, Any]:
    count = width * height // 256
    guidance = empty(1, dtype=torch.float32) if net.config.guidance_embeds else None
    return {
        "hidden_states": empty(1, count, 64),
        "timestep": empty(1),
        "guidance": guidance,
        "pooled_projections": empty(1, 768),
        "encoder_hidden_states": empty(1, 512, 4096),
        "txt_ids": empty(512, 3),
        "img_ids": empty(count, 3),
        "return_dict": False,
    }


@pytest.mark.parametrize(
    ("repository", "width", "height"), [(DEV, 1024, 1024), (DEV, 1920, 1088), (SCHNELL, 1024, 1024)]
)
def test_flux_denoises(repository: str, width: int, height: int) -> None:
    net = network(repository, "transformer")
    assert shape_of(net(**flux_inputs(net, width, height))[0]) == (1, width * height // 256, 64)


@pytest.mark.parametrize("variant", ["aes_stage2", "sim_stage1"])
def test_flux_denoises_with_a_face(variant: str) -> None:
    net, folder = network(DEV, "transformer"), f"infu_flux_v1.0/{variant}"
    with META:
        weights = {name: torch.empty(shape) for name, shape in read_tensors("resampler").items()}
        projection = Resampler.of(weights).eval()
        config: dict[str, Any] = find_component(INFINITE_YOU, f"{folder}/InfuseNetModel").config
        control: Any = IdentityControlNet(**config)
    control.to(torch.bfloat16)
    control.tokens = projection(empty(1, 1, 512, dtype=torch.float32))
    assert shape_of(control.tokens) == (1, 8, 4096)
    inputs = flux_inputs(net, 1024, 1024)
    blocks, singles = control(
        **inputs, controlnet_cond=empty(1, 4096, 64), controlnet_mode=None, conditioning_scale=1.0
    )
    assert [len(blocks), len(singles)] == [4, 10]
    made = net(**inputs, controlnet_block_samples=blocks, controlnet_single_block_samples=singles)[0]
    assert made.shape == inputs["hidden_states"].shape


@pytest.mark.parametrize("repository", [EDIT_2509, EDIT_2511])
@pytest.mark.parametrize("references", [1, 3])
def test_qwen_edit_denoises(repository: str, references: int) -> None:
    net, pictures = network(repository, "transformer"), 1 + references
    made = net(
        hidden_states=empty(1, 64 * 64 * pictures, 64),
        timestep=empty(1),
        encoder_hidden_states=empty(1, 400 * pictures, 3584),
        encoder_hidden_states_mask=None,
        img_shapes=[[(1, 64, 64)] * pictures],
        return_dict=False,
    )[0]
    assert shape_of(made) == (1, 64 * 64 * pictures, 64)


def test_qwen_edit_encodes_and_decodes_a_picture() -> None:
    vae = network(EDIT_2509, "vae")
    latents = vae.encode(empty(1, 3, 1, 1024, 1024)).latent_dist.mean
    assert shape_of(latents) == (1, 16, 1, 128, 128)
    assert shape_of(vae.decode(latents, return_dict=False)[0]) == (1, 3, 1, 1024, 1024)


@pytest.mark.parametrize("save_memory", [True, False])
def test_qwen_edit_is_guided(save_memory: bool) -> None:
    decoder = StillDecoder(network(EDIT_2509, "vae"), torch.bfloat16, save_memory=save_memory).to(META)
    vgg16 = Vgg16Features("random").to(META)
    picture = empty(1, 3, 1024, 1024, dtype=torch.float32)
    ttlg = Guidance(gram_scale=1.0, temporal_scale=1.0)
    reference = Reference(sobel_edges(picture), vgg16.grams(fitted(picture, ttlg.gram_size)), picture)
    packed = empty(1, 4096, 64, dtype=torch.float32)
    with torch.enable_grad():
        leaf = packed.requires_grad_()
        made = decoder(shrunk(unpacked(leaf, 128, 128), 1.0)) * 0.5 + 0.5
        found = Losses(ttlg, reference, laplacian_edges, vgg16).of(made)
        (gradient,) = torch.autograd.grad(torch.stack(list(found.values())).sum(), leaf)
    assert made.shape == picture.shape
    assert set(found) == {"edge", "gram", "temporal"}
    assert gradient.shape == packed.shape


def test_qwen_edit_is_guided_on_a_smaller_picture() -> None:
    decoder = StillDecoder(network(EDIT_2509, "vae"), torch.bfloat16).to(META)
    small = decoder(shrunk(unpacked(empty(1, 4096, 64, dtype=torch.float32), 128, 128), 0.5))
    assert shape_of(small) == (1, 3, 512, 512)


@pytest.mark.parametrize(("repository", "frames"), [(SVD, 14), (SVD_XT, 25)])
def test_svd_denoises_and_decodes(repository: str, frames: int) -> None:
    half = torch.float16
    unet, vae = network(repository, "unet", half), network(repository, "vae", half)
    made = unet(
        empty(2, frames, 8, 72, 128, dtype=half),
        empty(1, dtype=torch.float32),
        encoder_hidden_states=empty(2, 1, 1024, dtype=half),
        added_time_ids=empty(2, 3, dtype=half),
        return_dict=False,
    )[0]
    assert shape_of(made) == (2, frames, 4, 72, 128)
    parts = [shape_of(part) for part in decode_svd(vae, made[:1], 8, 3)]
    assert sum(part[0] for part in parts) == frames
    assert {part[1:] for part in parts} == {(3, 576, 1024)}


def test_svd_encodes_its_picture() -> None:
    embeds = network(SVD_XT, "image_encoder", torch.float16)(empty(1, 3, 224, 224, dtype=torch.float16)).image_embeds
    assert shape_of(embeds) == (1, 1024)
    latents = network(SVD_XT, "vae", torch.float32).encode(empty(1, 3, 576, 1024, dtype=torch.float32)).latent_dist.mean
    assert shape_of(latents) == (1, 4, 72, 128)


@pytest.mark.parametrize("chunk", [None, 1024])
def test_hunyuan_dit_denoises(chunk: int | None) -> None:
    half = torch.float16
    net: Any = build_network(find_component(HUNYUAN, "transformer"), half)
    for block in net.blocks if chunk else ():
        block.ff = ChunkedFeedForward(block.ff, chunk or 0)
    made = net(
        empty(2, 4, 128, 128, dtype=half),
        empty(2, dtype=half),
        encoder_hidden_states=empty(2, 77, 1024, dtype=half),
        text_embedding_mask=tokens(2, 77),
        encoder_hidden_states_t5=empty(2, 256, 2048, dtype=half),
        text_embedding_mask_t5=tokens(2, 256),
        image_meta_size=None,
        style=None,
        image_rotary_emb=(empty(4096, 88, dtype=torch.float32), empty(4096, 88, dtype=torch.float32)),
        return_dict=False,
    )[0]
    assert shape_of(made) == (2, 8, 128, 128)


@pytest.mark.parametrize(
    ("repository", "latents", "picture"),
    [(HUNYUAN, (1, 4, 128, 128), 1024), (DEV, (1, 16, 128, 128), 1024), (MS, (8, 4, 32, 32), 256)],
)
def test_picture_autoencoders_encode_and_decode(repository: str, latents: tuple[int, ...], picture: int) -> None:
    vae = network(repository, "vae")
    encoded = vae.encode(empty(latents[0], 3, picture, picture)).latent_dist.mean
    assert shape_of(encoded) == latents
    assert shape_of(vae.decode(encoded).sample) == (latents[0], 3, picture, picture)


@pytest.mark.parametrize("by_frames", [False, True])
@pytest.mark.parametrize(("frames", "width", "height"), [(16, 256, 256), (24, 576, 320)])
def test_text_to_video_denoises(by_frames: bool, frames: int, width: int, height: int) -> None:
    half = torch.float16
    unet: Any = build_network(find_component(MS, "unet"), half)
    if by_frames:
        feed_by_frames(unet)
    latents = empty(2, 4, frames, height // 8, width // 8, dtype=half)
    made = unet(latents, empty(1, dtype=half), encoder_hidden_states=empty(2, 77, 1024, dtype=half), return_dict=False)
    assert made[0].shape == latents.shape


def test_internvl_sees_eight_frames_and_reads_them() -> None:
    net = network(INTERNVL, "")
    seen = net.model.get_image_features(pixel_values=empty(8, 3, 448, 448)).pooler_output
    assert shape_of(seen) == (8, 256, 4096)
    prompt = empty(1, 8 * 256 + 216, 4096)
    assert shape_of(net(inputs_embeds=prompt, use_cache=True, logits_to_keep=1).logits) == (1, 1, 151936)


def test_arcface_embeds_a_face() -> None:
    with META:
        net = ArcFace().eval()
    assert shape_of(net(empty(1, 3, 112, 112, dtype=torch.float32))) == (1, 512)
