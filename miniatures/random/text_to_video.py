"""Writes text-to-video's tiny checkpoint: real classes and layout, random weights, a few MB. The output is noise."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from miniatures.random import Block, Fields, WriteForm

SEED = 22
TEXT_DIM = 32
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"

SHORT: Fields = {"prompt": "a boat", "num_frames": 10, "steps": 3, "size": "32x16", "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny`: 8 x 8 compression into 4 channels as in the real VAE, a UNet of four levels with the real one's
            kinds of blocks, a CLIP of 32 channels, a tokenizer of characters.
        folder: folder for `TextToVideoSDPipeline.from_pretrained`.

    Raises:
        ValueError: unknown form.
    """
    if form != "tiny":
        raise ValueError(f"form: must be tiny, got {form!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = TextToVideoSDPipeline(vae=_vae(), **_clip(), unet=_unet(), scheduler=_scheduler())
    pipeline.save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("tiny"),
        "dtype": "float32",
        "max_steps": 100,
        "defaults": {"num_frames": 16, "steps": 8, "size": "128x128"},
    }


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )


def _clip() -> dict[str, Any]:
    symbols = [*CHARACTERS, *(c + "</w>" for c in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_DIM,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config).eval()}


def _unet() -> UNet3DConditionModel:
    """Create a UNet with the default block kinds of its class, which are the real checkpoint's."""
    return UNet3DConditionModel(
        sample_size=32,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_DIM,
        attention_head_dim=8,
    )


def _scheduler() -> DDIMScheduler:
    """Create the real checkpoint's scheduler."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
