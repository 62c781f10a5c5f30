"""Writes Flux's tiny checkpoints: real classes and layout, random weights, a few MB. The output is noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from miniatures.random import Block, Fields, WriteForm
from services.flux.identity import CONTROLNET, PROJECTION, Resampler

SEED = 12
Z = 16
TEXT_DIM = 32
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"
SHAPE = {
    "patch_size": 1,
    "in_channels": 4 * Z,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT_DIM,
    "pooled_projection_dim": TEXT_DIM,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 4, 8],
}

SHORT: Fields = {"prompt": "a boat", "size": "64x48", "steps": 3, "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny` (the pipeline: 8 x 8 compression into 16 channels as in the real VAE, a transformer of 32 channels
            with two double and two single blocks) or `identity` (InfiniteYou's folder: a ControlNet of one block each,
            and the net that turns a face into tokens).
        folder: folder for `FluxPipeline.from_pretrained` or the identity nets.

    Raises:
        ValueError: unknown form.
    """
    forms: dict[str, Callable[[Path], None]] = {"tiny": _pipeline, "identity": _identity}
    if form not in forms:
        raise ValueError(f"form: must be one of {', '.join(forms)}, got {form!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        forms[form](folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("tiny"),
        "dtype": "float32",
        "max_steps": 100,
        "identity": {"weights": weights("identity")},
        "preview_every": 1,
        "defaults": {"size": "256x256", "steps": 8},
    }


def _pipeline(folder: Path) -> None:
    pipeline = FluxPipeline(
        scheduler=_scheduler(),
        vae=_vae(),
        transformer=FluxTransformer2DModel(**SHAPE, num_layers=2, num_single_layers=2),
        **_clip(),
        **_t5(),
    )
    pipeline.save_pretrained(folder)


def _identity(folder: Path) -> None:
    controlnet = FluxControlNetModel(**SHAPE, num_layers=1, num_single_layers=1)
    # A new ControlNet begins and ends in zeros and nearly ignores its tokens: a face would have no effect.
    for layer in controlnet.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=1.5 * layer.in_features**-0.5)
    controlnet.save_pretrained(folder / CONTROLNET)
    resampler = Resampler(dim=32, depth=2, heads=1, queries=8, output_dim=TEXT_DIM)
    save_file(resampler.state_dict(), folder / PROJECTION)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=Z,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    )


def _clip() -> dict[str, Any]:
    # The end token has the highest id: the pooled text is taken at the highest id.
    symbols = [*CHARACTERS, *(c + "</w>" for c in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={s: i for i, s in enumerate(symbols)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=TEXT_DIM,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config).eval()}


def _t5() -> dict[str, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *((c, -3.0) for c in CHARACTERS)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=TEXT_DIM,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
    )
    return {"tokenizer_2": tokenizer, "text_encoder_2": T5EncoderModel(config).eval()}


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Create the scheduler of FLUX.1-dev."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
