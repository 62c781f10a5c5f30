"""Forward passes of each model on random inputs, with the shapes that its pipeline gives them, and its VAE decoding."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_networks import Parts
from services.pixels import pixels_of
from services.qwen_edit.decoders import StillDecoder, unpacked
from services.qwen_edit.guidance import Losses, Reference, Vgg16Features, fitted, laplacian_edges, sobel_edges
from services.qwen_edit.request import Guidance
from services.svd.model import decode as decode_svd_windows
from services.svd.settings import SvdSettings
from services.text_to_video.settings import TextToVideoSettings
from services.wan.model import decode as decode_wan_frames
from services.wan.model import denormalise, to_pixels

TEXT_LENGTH = 512
"""Tokens of a prompt of Wan and Flux."""
QWEN_TEXT_LENGTH = 400
"""Tokens of a prompt of Qwen-Image-Edit for each picture, which Qwen2.5-VL reads with the text."""
ENLARGED_AT_ONCE = 4

Run = Callable[[], object]
MakeRun = Callable[[Parts, "Canvas"], Run]


@dataclass(frozen=True, slots=True)
class Canvas:
    """What is made: a size in pixels and a number of frames."""

    width: int
    height: int
    frames: int = 1
    references: int = 0
    """Number of pictures that are edited."""

    @property
    def tokens(self) -> int:
        """Number of tokens of a picture, one for 16 x 16 pixels."""
        return self.width * self.height // 256


def _latents_of(parts: Parts, canvas: Canvas, channels: int) -> Tensor:
    """Draw latents of Wan, (1, channels, t, h, w)."""
    scale: int = parts.networks["vae"].config.scale_factor_spatial
    return parts.draw(1, channels, (canvas.frames - 1) // 4 + 1, canvas.height // scale, canvas.width // scale)


def pass_wan(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of an expert of Wan2.2-A14B."""
    latents = _latents_of(parts, canvas, parts.networks["transformer"].config.in_channels)
    return _pass_wan(parts, latents, parts.count(1))


def pass_wan_by_token(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of Wan2.2-TI2V-5B, which has a time step for each token."""
    latents = _latents_of(parts, canvas, parts.networks["transformer"].config.in_channels)
    return _pass_wan(parts, latents, parts.count(1, latents[0, 0].numel() // 4))


def _pass_wan(parts: Parts, latents: Tensor, ones: Tensor) -> Run:
    net = parts.networks["transformer"]
    steps, text = ones * 500, parts.draw(1, TEXT_LENGTH, net.config.text_dim)
    return lambda: net(latents, steps, text, return_dict=False)


def decode_wan(parts: Parts, canvas: Canvas) -> Run:
    vae = parts.networks["vae"]
    latents = _latents_of(parts, canvas, vae.config.z_dim)
    return lambda: [to_pixels(video) for video in decode_wan_frames(vae, denormalise(vae, latents))]


def _flux_inputs(parts: Parts, canvas: Canvas) -> dict[str, Any]:
    config = parts.networks["transformer"].config
    return {
        "hidden_states": parts.draw(1, canvas.tokens, config.in_channels),
        "timestep": parts.draw(1).abs(),
        "guidance": torch.full((1,), 3.5, device=parts.device) if config.guidance_embeds else None,
        "pooled_projections": parts.draw(1, config.pooled_projection_dim),
        "encoder_hidden_states": parts.draw(1, TEXT_LENGTH, config.joint_attention_dim),
        "txt_ids": torch.zeros(TEXT_LENGTH, 3, device=parts.device, dtype=parts.dtype),
        "img_ids": torch.zeros(canvas.tokens, 3, device=parts.device, dtype=parts.dtype),
        "return_dict": False,
    }


def pass_flux(parts: Parts, canvas: Canvas) -> Run:
    net, inputs = parts.networks["transformer"], _flux_inputs(parts, canvas)
    return lambda: net(**inputs)


def pass_flux_face(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of the ControlNet for faces, followed by one of the transformer."""
    net, control, inputs = parts.networks["transformer"], parts.networks["face"], _flux_inputs(parts, canvas)
    control.tokens = parts.draw(1, 8, net.config.joint_attention_dim)
    picture = parts.draw(1, canvas.tokens, control.config.in_channels)

    def run() -> object:
        blocks, singles = control(**inputs, controlnet_cond=picture, controlnet_mode=None, conditioning_scale=1.0)
        return net(**inputs, controlnet_block_samples=blocks, controlnet_single_block_samples=singles)

    return run


def decode_picture(parts: Parts, canvas: Canvas) -> Run:
    """Return the decoding of a picture by the VAE of Flux or HunyuanDiT."""
    vae = parts.networks["vae"]
    latents = parts.draw(1, vae.config.latent_channels, canvas.height // 8, canvas.width // 8)
    return lambda: pixels_of(vae.decode(latents).sample.float())


def pass_qwen(parts: Parts, canvas: Canvas) -> Run:
    net, pictures = parts.networks["transformer"], 1 + canvas.references
    inputs: dict[str, Any] = {
        "hidden_states": parts.draw(1, canvas.tokens * pictures, net.config.in_channels),
        "timestep": parts.draw(1).abs(),
        "encoder_hidden_states": parts.draw(1, QWEN_TEXT_LENGTH * canvas.references, net.config.joint_attention_dim),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[(1, canvas.height // 16, canvas.width // 16)] * pictures],
        "return_dict": False,
    }
    return lambda: net(**inputs)


def guide_qwen(parts: Parts, canvas: Canvas) -> Run:
    """Return an update of the guidance: the still decoder forwards and backwards, with all three losses."""
    vae = parts.networks["vae"]
    decoder = StillDecoder(vae, parts.dtype)
    vgg16 = Vgg16Features("random").to(parts.device)
    picture = torch.rand(1, 3, canvas.height, canvas.width, device=parts.device)
    settings = Guidance(gram_scale=1.0, temporal_scale=1.0)
    reference = Reference(sobel_edges(picture), vgg16.grams(fitted(picture, settings.gram_size)), picture)
    losses = Losses(settings, reference, laplacian_edges, vgg16)
    packed = parts.draw(1, canvas.tokens, 4 * vae.config.z_dim, dtype=torch.float32)

    def run() -> object:
        with torch.enable_grad():
            leaf = packed.detach().requires_grad_()
            made = decoder(unpacked(leaf, canvas.height // 8, canvas.width // 8)) * 0.5 + 0.5
            return torch.autograd.grad(torch.stack(list(losses.of(made).values())).sum(), leaf)

    return run


def decode_qwen(parts: Parts, canvas: Canvas) -> Run:
    vae = parts.networks["vae"]
    latents = parts.draw(1, vae.config.z_dim, 1, canvas.height // 8, canvas.width // 8)
    return lambda: pixels_of(vae.decode(latents).sample[:, :, 0].float())


def pass_svd(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of SVD's UNet, with and without the picture at once, as its pipeline runs it."""
    net = parts.networks["unet"]
    size = canvas.height // 8, canvas.width // 8
    latents = parts.draw(2, canvas.frames, net.config.in_channels, *size)
    inputs: dict[str, Any] = {
        "encoder_hidden_states": parts.draw(2, 1, net.config.cross_attention_dim),
        "added_time_ids": parts.draw(2, 3).abs(),
        "return_dict": False,
    }
    step = torch.ones(1, device=parts.device)
    return lambda: net(latents, step, **inputs)


def decode_svd(parts: Parts, canvas: Canvas) -> Run:
    vae, settings = parts.networks["vae"], SvdSettings.model_fields
    window, overlap = settings["decode_window"].default, settings["decode_overlap"].default
    latents = parts.draw(1, canvas.frames, vae.config.latent_channels, canvas.height // 8, canvas.width // 8)
    return lambda: [pixels_of(part.float()) for part in decode_svd_windows(vae, latents, window, overlap)]


def pass_hunyuan_dit(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of HunyuanDiT with and without the prompt at once, as its pipeline runs it."""
    net = parts.networks["transformer"]
    config = net.config
    rotary = tuple(parts.draw(canvas.tokens, config.attention_head_dim, dtype=torch.float32) for _ in range(2))
    latents = parts.draw(2, config.in_channels, canvas.height // 8, canvas.width // 8)
    inputs: dict[str, Any] = {
        "encoder_hidden_states": parts.draw(2, config.text_len, config.cross_attention_dim),
        "text_embedding_mask": parts.count(2, config.text_len),
        "encoder_hidden_states_t5": parts.draw(2, config.text_len_t5, config.cross_attention_dim_t5),
        "text_embedding_mask_t5": parts.count(2, config.text_len_t5),
        "image_meta_size": None,
        "style": None,
        "image_rotary_emb": rotary,
        "return_dict": False,
    }
    step = parts.draw(2).abs()
    return lambda: net(latents, step, **inputs)


def pass_text_to_video(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of the UNet with and without the prompt at once, as its pipeline runs it."""
    net = parts.networks["unet"]
    latents = parts.draw(2, net.config.in_channels, canvas.frames, canvas.height // 8, canvas.width // 8)
    text, step = parts.draw(2, 77, net.config.cross_attention_dim), parts.count(1)
    return lambda: net(latents, step, encoder_hidden_states=text, return_dict=False)


def decode_text_to_video(parts: Parts, canvas: Canvas) -> Run:
    vae, batch = parts.networks["vae"], TextToVideoSettings.model_fields["decode_batch"].default
    latents = parts.draw(canvas.frames, vae.config.latent_channels, canvas.height // 8, canvas.width // 8)
    return lambda: [pixels_of(vae.decode(part).sample.float()) for part in latents.split(batch)]


def read_internvl(parts: Parts, canvas: Canvas) -> Run:
    """Return the reading of all frames and of a prompt, up to the first token of the answer."""
    net, pictures, prompt = parts.networks[""], *_internvl_inputs(parts, canvas)

    def run() -> object:
        net.model.get_image_features(pixel_values=pictures)
        return net(inputs_embeds=prompt, use_cache=True, logits_to_keep=1)

    return run


def answer_internvl(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass for one token of the answer, after the frames and the prompt."""
    net, (_, prompt) = parts.networks[""], _internvl_inputs(parts, canvas)
    cache = net(inputs_embeds=prompt, use_cache=True, logits_to_keep=1).past_key_values
    token = parts.count(1, 1)
    return lambda: net(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)


def _internvl_inputs(parts: Parts, canvas: Canvas) -> tuple[Tensor, Tensor]:
    config = parts.networks[""].config
    pictures = parts.draw(canvas.frames, 3, *config.vision_config.image_size)
    length = canvas.frames * config.image_seq_length + 216
    return pictures, parts.draw(1, length, config.text_config.hidden_size)


def enlarge(parts: Parts, canvas: Canvas) -> Run:
    """Return a pass of Real-ESRGAN over a batch of frames."""
    net = parts.networks[""].to(memory_format=torch.channels_last)
    pictures = parts.draw(ENLARGED_AT_ONCE, 3, canvas.height, canvas.width)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    return lambda: net(pictures)


def embed_face(parts: Parts, canvas: Canvas) -> Run:
    net, pictures = parts.networks[""], parts.draw(1, 3, canvas.height, canvas.width)
    return lambda: net(pictures)
