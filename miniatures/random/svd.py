"""Writes Stable Video Diffusion's tiny checkpoint: real classes, random weights, a few MB. The output is noise."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from miniatures.random import Block, Fields, WriteForm

SEED = 22
IMAGE_DIM = 32
TIME_DIM = 32
CHANNELS = (32, 32, 32, 32)
"""Channels of the UNet and of the VAE; their group norms need multiples of 32."""

SHORT: Fields = {"num_frames": 5, "steps": 3, "max_area": 64 * 64, "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `xt`: 25 frames, 8 x 8 compression into 4 channels and a UNet of four levels, as SVD-XT.
        folder: folder for `StableVideoDiffusionPipeline.from_pretrained`.

    Raises:
        ValueError: unknown form.
    """
    if form != "xt":
        raise ValueError(f"form: must be xt, got {form!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = StableVideoDiffusionPipeline(
            vae=_vae(),
            image_encoder=_image_encoder(),
            unet=_unet(),
            scheduler=_scheduler(),
            feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        )
    pipeline.save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("xt"),
        "dtype": "float32",
        "max_steps": 100,
        "defaults": {"num_frames": 14, "steps": 8, "max_area": 65536},
    }


def _vae() -> AutoencoderKLTemporalDecoder:
    return AutoencoderKLTemporalDecoder(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
    )


def _image_encoder() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=IMAGE_DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=64,
        patch_size=32,
    )
    return CLIPVisionModelWithProjection(config).eval()


def _unet() -> UNetSpatioTemporalConditionModel:
    """Create a UNet with the default block kinds of its class, which are SVD-XT's."""
    return UNetSpatioTemporalConditionModel(
        sample_size=8,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=IMAGE_DIM,
        num_attention_heads=(2, 2, 4, 4),
        addition_time_embed_dim=TIME_DIM,
        projection_class_embeddings_input_dim=3 * TIME_DIM,  # frame rate, motion and noise
        num_frames=25,
    )


def _scheduler() -> EulerDiscreteScheduler:
    """Create the real checkpoint's scheduler."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
