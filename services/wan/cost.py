"""What a request to Wan costs."""

from collections.abc import Mapping
from typing import Any

from services.checkpoint import Checkpoint
from services.cost import (
    BYTES,
    Convolutions,
    Cost,
    Job,
    Jobs,
    Phase,
    count_attention,
    describe_size,
    encode_text,
    find_config,
    make_jobs,
)
from services.wan.request import Denoising, WanRequest, WanTextRequest
from services.wan.settings import WanSettings

# The first latent frame is one frame of the video, each later one is four.
DECODER = Convolutions(96, 687.9e6, 384, 110_800), Convolutions(96, 2161.9e6, 384, 313_000)
ENCODER = Convolutions(96, 426.0e6, 384, 62_000), Convolutions(96, 1280.8e6, 384, 228_100)
RESIDUAL_DECODER = Convolutions(256, 5830.7e6, 1024, 371_300), Convolutions(256, 18835.6e6, 1024, 1_384_500)
RESIDUAL_ENCODER = Convolutions(160, 1188.7e6, 640, 125_500), Convolutions(160, 3574.6e6, 640, 479_400)


def estimate_cost(checkpoint: Checkpoint, settings: WanSettings, job: Job[Denoising]) -> Cost:
    """Return the cost of a request with Denoising's fields."""
    request = job.request
    frames = (request.num_frames - 1) // 4 + 1
    vae = find_config(checkpoint, "vae")
    config = find_config(checkpoint, "transformer")
    factor = vae["scale_factor_spatial"]
    latents = job.area // factor**2
    guided = request.guidance_scale > 1
    expands = bool(checkpoint.pipeline.get("expand_timesteps"))
    passes = request.steps * (2 if guided else 1)
    denoising = Phase(
        "transformer",
        passes,
        count_pass(config, frames * latents // 4, settings.max_sequence_length, expands=expands),
        hold_pass(config, frames * latents // 4, BYTES[settings.dtype], expands=expands),
    )
    text = encode_text(checkpoint, "text_encoder", settings.max_sequence_length, 2 if guided else 1)
    phases = [text, denoising, _code(vae, "decode", frames, latents, settings.vae_dtype)]
    if config["in_channels"] != config["out_channels"]:  # the picture, continued by grey frames
        phases.insert(1, _code(vae, "encode", frames, latents, settings.vae_dtype))
    elif expands and job.pictures:
        phases.insert(1, _code(vae, "encode", 1, latents, settings.vae_dtype))
    names = [part.name for part in checkpoint.components]
    precision = {name: settings.vae_dtype if name == "vae" else settings.dtype for name in names}
    return Cost(tuple(phases), "transformer", describe_size(job.area, request.num_frames), precision)


def count_pass(config: Mapping[str, Any], tokens: int, text: int, *, expands: bool) -> float:
    """Operations of one forward pass of a transformer."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    each = 2.0 * tokens * (6 * width**2 + 2 * width * config["ffn_dim"]) + 2.0 * text * 2 * width**2
    blocks = config["num_layers"] * (
        each + count_attention(tokens, tokens, width) + count_attention(tokens, text, width)
    )
    ends = 2.0 * tokens * 4 * (config["in_channels"] + config["out_channels"]) * width
    times = tokens if expands else 1  # each token may have a time step of its own
    embedding = (
        2.0 * text * (config["text_dim"] + width) * width + 2.0 * times * (config["freq_dim"] + 7 * width) * width
    )
    return blocks + ends + embedding


def hold_pass(config: Mapping[str, Any], tokens: int, element_bytes: int, *, expands: bool) -> float:
    """Bytes of activations of a forward pass: the widest moment of a block, and the modulation of each token."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    modulation = 42.9 if expands else 0.0  # bytes: six float32 vectors and their parts
    return tokens * width * (11.1 * element_bytes + modulation)


def _code(vae: Mapping[str, Any], way: str, frames: int, latents: int, dtype: str) -> Phase:
    """Return the phase in which the VAE encodes or decodes `frames` latent frames of `latents` elements, one by one."""
    residual, decodes = bool(vae.get("is_residual")), way == "decode"
    nets = (RESIDUAL_DECODER, RESIDUAL_ENCODER) if residual else (DECODER, ENCODER)
    first, later = nets[0 if decodes else 1]
    width = int((vae.get("decoder_base_dim") or vae["base_dim"]) if decodes else vae["base_dim"])
    flop = first.count(latents, width) + (frames - 1) * later.count(latents, width)
    widest = first if frames == 1 else later
    return Phase("vae", 1, flop, widest.hold(latents, width, BYTES[dtype]))


def list_jobs(checkpoint: Checkpoint, settings: WanSettings, defaults: Mapping[str, Any]) -> Jobs[Any]:
    """Return the default and the largest request of a deployment."""
    animates = "image-to-video" in checkpoint.roles or not checkpoint.roles
    request = WanRequest if animates else WanTextRequest
    seen = int(animates)
    return make_jobs(request, settings.limits, defaults, {"guidance_scale": 5.0}, (seen, seen))
