"""Writes Qwen-Image-Edit's tiny checkpoint: real classes and layout, random weights, a few MB. The output is noise."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from miniatures.random import Block, Fields, WriteForm

SEED = 25
TEXT_DIM = 32
Z = 16
SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

SHORT: Fields = {"prompt": "a boat", "steps": 3, "true_cfg_scale": 1.0, "max_area": 64 * 48, "seed": 3}
"""A request that takes a second."""
LONG: Fields = {"steps": 100}
"""Changes that make the request long enough to be cancelled."""


def write(form: str, folder: Path) -> None:
    """Write a checkpoint into `folder`, which exists and is empty.

    Args:
        form: `tiny`: 8 x 8 compression into 16 channels as in the real VAE, a transformer and a Qwen2.5-VL of 32
            channels, a tokenizer of bytes.
        folder: folder for `QwenImageEditPlusPipeline.from_pretrained`.

    Raises:
        ValueError: unknown form.
    """
    if form != "tiny":
        raise ValueError(f"form: must be tiny, got {form!r}")
    tokenizer = _tokenizer()
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipeline = QwenImageEditPlusPipeline(
            scheduler=_scheduler(),
            vae=_vae(),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            processor=processor,
            transformer=_transformer(),
        )
    pipeline.save_pretrained(folder)


def serve(weights: WriteForm) -> Block:
    """Return the entry of the model in tests."""
    return {
        "weights": weights("tiny"),
        "dtype": "float32",
        "max_steps": 100,
        "reference_area": 36864,
        "condition_area": 12544,
        "max_area": 1048576,
        "vgg16": "random",
        "lpips": "random",
        "defaults": {"steps": 8, "max_area": 57600},
    }


def _vae() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=Z,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * Z,
        latents_std=[1.0] * Z,
    )


def _transformer() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * Z,
        out_channels=Z,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=TEXT_DIM,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )


def _tokenizer() -> Qwen2Tokenizer:
    vocab = {symbol: index for index, symbol in enumerate([*sorted(ByteLevel.alphabet()), *SPECIALS])}
    return Qwen2Tokenizer(vocab=vocab, merges=[], extra_special_tokens=SPECIALS[1:])


def _text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    ids = dict(zip(SPECIALS, tokenizer.convert_tokens_to_ids(SPECIALS), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_DIM,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "rope_theta": 1_000_000.0,
            "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
        },
        vision_config={
            "depth": 2,
            "hidden_size": TEXT_DIM,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": TEXT_DIM,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Create the real checkpoint's scheduler."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )
