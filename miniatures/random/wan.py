"""Writes Wan's tiny checkpoints: real pipeline class and layout, random weights, a few MB. The output is noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from miniatures.random import Block, Fields, WriteForm

SEED = 20
TEXT_DIM = 32
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"

SHORT: Fields = {"prompt": "a boat", "num_frames": 9, "steps": 3, "max_area": 64 * 48, "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `a14b` (two experts, a boundary, 8 x 8 x 4 compression, as Wan2.2-I2V-A14B), `t2v` (the same without a
            picture, as Wan2.2-T2V-A14B) or `ti2v` (one transformer, time steps per token, residual VAE with 16 x 16 x 4
            compression, as Wan2.2-TI2V-5B).
        folder: folder for `from_pretrained` of the form's pipeline.

    Raises:
        ValueError: unknown form.
    """
    forms: dict[str, Callable[[], dict[str, Any]]] = {"a14b": _a14b, "t2v": _t2v, "ti2v": _ti2v}
    if form not in forms:
        raise ValueError(f"form: must be one of {', '.join(forms)}, got {form!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline_class = WanImageToVideoPipeline if form == "a14b" else WanPipeline  # as the published ones
        pipeline = pipeline_class(**_text(), scheduler=_scheduler(), **forms[form]())
    pipeline.save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("a14b"),
        "dtype": "float32",
        "max_steps": 100,
        "rate": 16,
        "max_frames": 121,
        "max_area": 901120,
        "preview_every": 2,
        "defaults": {"num_frames": 33, "steps": 8, "max_area": 57600, "guidance_scale": 2.0},
    }


def _a14b() -> dict[str, Any]:
    return _two_experts(channels=36, boundary=0.9)  # latents, mask and condition


def _t2v() -> dict[str, Any]:
    return _two_experts(channels=16, boundary=0.875)


def _two_experts(channels: int, boundary: float) -> dict[str, Any]:
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=16,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    return {
        "vae": vae,
        "transformer": _transformer(in_channels=channels, out_channels=16),
        "transformer_2": _transformer(in_channels=channels, out_channels=16),
        "boundary_ratio": boundary,
    }


def _ti2v() -> dict[str, Any]:
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        scale_factor_spatial=16,
    )
    transformer = _transformer(in_channels=48, out_channels=48)
    return {"vae": vae, "transformer": transformer, "transformer_2": None, "expand_timesteps": True}


def _transformer(in_channels: int, out_channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=in_channels,
        out_channels=out_channels,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=96,
        num_layers=3,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )


def _text() -> dict[str, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((c, -3.0) for c in CHARACTERS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    config = UMT5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
    )
    return {"tokenizer": tokenizer, "text_encoder": UMT5EncoderModel(config).eval()}


def _scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
