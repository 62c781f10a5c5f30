"""Writes a checkpoint of SVD-XT's real architecture and size with random weights, for timing without a download."""

from pathlib import Path
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

SEED = 22

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 768,
}
VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
"""Configuration of OpenCLIP's ViT-H/14."""
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def write_full_size(folder: Path, dtype: str) -> None:
    """Write a checkpoint of 4.4 GB for `StableVideoDiffusionPipeline.from_pretrained`.

    Source: the configuration of stabilityai/stable-video-diffusion-img2vid-xt.

    Args:
        folder: folder to create.
        dtype: data type of the stored weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = StableVideoDiffusionPipeline(
            vae=vae(),
            image_encoder=image_encoder(),
            unet=unet(),
            scheduler=cast("Any", EulerDiscreteScheduler).from_config(SCHEDULER),
            feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        )
    pipeline.to(dtype=getattr(torch, dtype))
    pipeline.save_pretrained(folder)


def vae() -> AutoencoderKLTemporalDecoder:
    return cast("Any", AutoencoderKLTemporalDecoder).from_config(VAE)


def image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()


def unet() -> UNetSpatioTemporalConditionModel:
    """Create a UNet with the defaults of its class, which are SVD-XT's."""
    return cast("Any", UNetSpatioTemporalConditionModel).from_config({"sample_size": 96})
