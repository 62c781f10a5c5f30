"""Writes HunyuanDiT's tiny checkpoint: real classes and layout, random weights, a few MB. The output is noise."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from miniatures.random import Block, Fields, WriteForm

SEED = 12
TEXT_DIM = 32
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-"

SHORT: Fields = {"prompt": "as an oil painting", "steps": 5, "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100, "strength": 1.0}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny`: 8 x 8 compression into 4 channels as in the real VAE, a transformer of 4 blocks with v1.2's
            conditions, a BERT and an mT5 of 32 channels, tokenizers of characters.
        folder: folder for `HunyuanDiTPipeline.from_pretrained`.

    Raises:
        ValueError: unknown form.
    """
    if form != "tiny":
        raise ValueError(f"form: must be tiny, got {form!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = HunyuanDiTPipeline(
            vae=_vae(),
            **_bert(),
            **_mt5(),
            transformer=_transformer(),
            scheduler=_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("tiny"),
        "dtype": "float32",
        "max_steps": 100,
    }


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        scaling_factor=0.13025,
        force_upcast=False,
    )


def _transformer() -> HunyuanDiT2DModel:
    return HunyuanDiT2DModel(
        sample_size=128,
        patch_size=2,
        num_layers=4,  # the last one has a skip connection
        num_attention_heads=3,
        attention_head_dim=16,
        hidden_size=48,
        mlp_ratio=4.3637,
        in_channels=4,
        cross_attention_dim=TEXT_DIM,
        cross_attention_dim_t5=TEXT_DIM,
        pooled_projection_dim=16,
        text_len=77,
        text_len_t5=256,
        use_style_cond_and_image_meta_size=False,
    )


def _bert() -> dict[str, Any]:
    symbols = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *("##" + c for c in CHARACTERS)]
    tokenizer = BertTokenizer(vocab={symbol: i for i, symbol in enumerate(symbols)}, model_max_length=77)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return {"tokenizer": tokenizer, "text_encoder": BertModel(config).eval()}


def _mt5() -> dict[str, Any]:
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
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return {"tokenizer_2": tokenizer, "text_encoder_2": T5EncoderModel(config).eval()}


def _scheduler() -> DDPMScheduler:
    """Create the real checkpoint's scheduler."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.018,
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )
