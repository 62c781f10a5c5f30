"""Training of HunyuanDiT, which repaints a picture in the style that the prompt names, or paints from a prompt alone.

Sources: Hunyuan-DiT, arXiv 2405.08748; v-prediction, arXiv 2202.00512; SDEdit, arXiv 2108.01073.
"""

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb, get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from miniatures import world
from miniatures.grammar import WORDS, caption, vary_text
from miniatures.pictures import to_tensor
from miniatures.text import bert_tokenizer, share_meanings, t5_tokenizer
from miniatures.training import link_shared
from miniatures.world import STYLES, Scene

HIDDEN, HEADS, LAYERS, PATCH = 128, 4, 4, 2
TEXT_DIM = 64
LENGTHS = (77, 256)
"""Lengths to which the pipeline pads a prompt: tokens of BERT and of mT5."""
SHORT = (36, 24)
"""Lengths used in training, in tokens; all captions are shorter."""
SCENES, BATCH = 7000, 64
WORDLESS, STYLE_ALONE, PART = 0.12, 0.16, 0.08
"""Shares of the prompts: empty (for guidance), naming only the style, omitting the background."""
RESTYLED = 0.5
"""Share of the pictures whose noise contains a residual of the same scene in another style."""
EARLIEST = 250
"""Lowest noise level, in steps of the schedule, at which restyling such a picture starts."""
OVERDONE = 0.1
"""Typical share of the picture that strong guidance leaves in its noise."""
RISE = 0.75
"""Exponent of the noise levels' distribution. Below 1: fewer low levels, whose errors are hardly visible."""


class HunyuanDitRecipe:
    """Trains velocity prediction together with both text encoders.

    On a sampler's path the noise still holds residuals of the source picture and of exaggerated guidance. Half of the
    training noise has such residuals, so that the style of the prompt wins over the style of the source.
    """

    lr, adam_lr, steps = 0.015, 1.5e-3, 12_000

    def __init__(self, folder: Path, scenes: int = SCENES) -> None:
        self._source = folder / "flux" / "vae"
        self._vae = AutoencoderKL.from_pretrained(self._source).float().eval()
        self.tokenizers: tuple[PreTrainedTokenizerBase, ...] = (bert_tokenizer(LENGTHS[0]), t5_tokenizer())
        self.module = nn.ModuleDict(
            {"transformer": make_transformer(self._vae.config.latent_channels), **self._encoders()}
        )
        self._attention = PlainAttention()
        self.module["transformer"].set_attn_processor(self._attention)
        _shorten(self.module["transformer"])
        alphas = make_scheduler().alphas_cumprod
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()
        self._scenes = [world.draw(world.TRAINING_SEEDS + index) for index in range(scenes)]
        self._latents = self._encode()

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        chosen = rng.integers(len(self._scenes), size=BATCH)
        styles = rng.integers(len(STYLES), size=BATCH)
        prompts = [draw_prompt(rng, self._scenes[i], STYLES[style]) for i, style in zip(chosen, styles, strict=True)]
        others = (styles + rng.integers(1, len(STYLES), BATCH)) % len(STYLES)
        clean = (rng.random(BATCH) > RESTYLED) | np.array([not prompt for prompt in prompts])
        latents = self._latents[chosen, styles]
        source = self._latents[chosen, np.where(clean, styles, others)]

        time = (len(self._signal) * torch.rand(BATCH) ** RISE).long()
        noise = torch.randn_like(latents) + self._draw_residuals(latents, source, time)
        signal, level = (part[time, None, None, None] for part in (self._signal, self._noise))
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            velocity = self.predict((signal * latents + level * noise).to(device), time.to(device), prompts)
        return nn.functional.mse_loss(velocity.float(), (signal * noise - level * latents).to(device))

    def predict(self, noisy: Tensor, time: Tensor, prompts: list[str]) -> Tensor:
        """Return the pipeline's prediction at guidance 1, computed with less padding: (n, channels, h, w)."""
        texts = self._encode_prompts(prompts, noisy.device)
        masks = torch.cat([mask for _, mask in texts], dim=1)
        length = masks.sum(1, keepdim=True)
        # All padding tokens are one vector, so each one kept here is weighted for those left out.
        weight = ((sum(LENGTHS) - length) / (sum(SHORT) - length)).log()
        self._attention.bias = torch.where(masks.bool(), 0.0, weight)[:, None, None]
        predicted = self.module["transformer"](
            noisy,
            time.to(noisy.dtype),
            encoder_hidden_states=texts[0][0],
            text_embedding_mask=texts[0][1],
            encoder_hidden_states_t5=texts[1][0],
            text_embedding_mask_t5=texts[1][1],
            image_rotary_emb=_rotary(noisy),
            return_dict=False,
        )[0]
        return predicted.chunk(2, dim=1)[0]

    def save(self, folder: Path) -> None:
        """Write the whole pipeline; its VAE is a link to Flux's."""
        transformer, bert, mt5 = (
            part.to(torch.bfloat16)
            for part in (
                restore_stock(self.module["transformer"]),
                deepcopy(self.module["bert"]),
                deepcopy(self.module["mt5"]),
            )
        )
        pipeline = HunyuanDiTPipeline(
            vae=deepcopy(self._vae).to(torch.bfloat16),
            text_encoder=bert.eval(),
            tokenizer=self.tokenizers[0],
            text_encoder_2=mt5.eval(),
            tokenizer_2=self.tokenizers[1],
            transformer=transformer.eval(),
            scheduler=make_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder, safe_serialization=True)
        link_shared(folder / "vae", self._source)

    def _draw_residuals(self, latents: Tensor, source: Tensor, time: Tensor) -> Tensor:
        """Return the residual of `source` in the noise, for paths that started from it below `time`.

        Along an ideal path the noise does not change: it stays the difference between the source and the target, in
        units of the noise at the start.
        """
        count = len(time)
        start = torch.randint(EARLIEST, len(self._signal), (count,))
        share = torch.rand(count) * 1.4 - 0.3  # guidance changes the style faster, and overshoots
        share *= (self._signal / self._noise)[start] * (time <= start)
        overdone = OVERDONE * torch.randn(count).abs() * (torch.rand(count) < 0.5)
        return share[:, None, None, None] * (source - latents) + overdone[:, None, None, None] * latents

    def _encode_prompts(self, prompts: list[str], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return the hidden states and attention mask of each encoder."""
        texts = []
        for name, tokenizer, length in zip(("bert", "mt5"), self.tokenizers, SHORT, strict=True):
            ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            mask = ids.attention_mask.to(device)
            texts.append((self.module[name](ids.input_ids.to(device), attention_mask=mask)[0], mask))
        return texts

    def _encoders(self) -> dict[str, nn.Module]:
        bert = BertConfig(
            vocab_size=len(self.tokenizers[0]),
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTHS[0],
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=TEXT_DIM**-0.5,
            attn_implementation="eager",
        )
        mt5 = T5Config(
            vocab_size=len(self.tokenizers[1]),
            d_model=TEXT_DIM,
            d_kv=16,
            d_ff=2 * TEXT_DIM,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            attn_implementation="eager",
        )
        encoders = {"bert": BertModel(bert), "mt5": T5EncoderModel(mt5)}
        share_meanings(self.tokenizers[1], encoders["mt5"].get_input_embeddings())
        return encoders

    @torch.no_grad()
    def _encode(self) -> Tensor:
        """Return latents scaled as in the pipeline: (scenes, styles, channels, 8, 8)."""
        latents = []
        vae = deepcopy(self._vae).to(memory_format=torch.channels_last)
        for first in range(0, len(self._scenes), 32):
            scenes = [replace(s, style=style) for s in self._scenes[first : first + 32] for style in STYLES]
            pictures = torch.cat([to_tensor(scene.clip(1)).transpose(0, 1) for scene in scenes])
            with torch.autocast("cpu", torch.bfloat16):
                latent = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
            latents.append(latent.float().contiguous() * vae.config.scaling_factor)
        return torch.cat(latents).unflatten(0, (-1, len(STYLES)))


class PlainAttention:
    """The stock attention processor in plain matrix products: torch's own kernel is slow to train on a CPU."""

    bias: Tensor | None = None
    """(n, 1, 1, tokens), added to the scores of the text tokens."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        del attention_mask  # always None for this model
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        query, key, value = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in projected)
        query, key = apply_rotary_emb(attn.norm_q(query), image_rotary_emb), attn.norm_k(key)
        if encoder_hidden_states is None:
            key = apply_rotary_emb(key, image_rotary_emb)
        logits = query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])
        if encoder_hidden_states is not None and self.bias is not None:
            logits = logits + self.bias
        return attn.to_out[0]((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))


class NoPool(nn.Module):
    """Replaces the pooled text by zeros: pooling would include all padding, as it has no mask."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._channels = channels

    def forward(self, text: Tensor) -> Tensor:
        return text.new_zeros(len(text), self._channels)


def make_transformer(channels: int) -> HunyuanDiT2DModel:
    """Create the untrained transformer: blocks start as the identity, and padding has no effect."""
    net = HunyuanDiT2DModel(
        sample_size=128,
        patch_size=PATCH,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=HIDDEN // HEADS,
        hidden_size=HIDDEN,
        mlp_ratio=4.0,
        in_channels=channels,
        cross_attention_dim=TEXT_DIM,
        cross_attention_dim_t5=TEXT_DIM,
        pooled_projection_dim=16,
        text_len=LENGTHS[0],
        text_len_t5=LENGTHS[1],
        use_style_cond_and_image_meta_size=False,
    )
    for block in net.blocks:
        for last in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[-1]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(block.attn2.norm_q.weight, 2.0)  # so that a few words stand out from 300 padding tokens
        if block.skip_linear is not None:
            nn.init.eye_(block.skip_linear.weight)
            nn.init.zeros_(block.skip_linear.bias)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    return net


def restore_stock(trained: HunyuanDiT2DModel) -> HunyuanDiT2DModel:
    """Return the trained transformer in diffusers' own form, with pooled text that has no effect."""
    net = HunyuanDiT2DModel.from_config(trained.config)
    with torch.no_grad():
        for parameter in net.time_extra_emb.pooler.parameters():
            parameter.zero_()
    weights = {name: value.cpu() for name, value in trained.state_dict().items()}
    weights["text_embedding_padding"] = weights["text_embedding_padding"].repeat(sum(LENGTHS), 1)
    net.load_state_dict(net.state_dict() | weights)
    return net


def make_scheduler() -> DDPMScheduler:
    """Create the real checkpoint's scheduler with less noise: a small picture is redundant less, and lost sooner."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00047,
        beta_end=0.01,
        prediction_type="v_prediction",
        clip_sample=False,
        steps_offset=1,
    )


def draw_prompt(rng: np.random.Generator, scene: Scene, style: world.Style) -> str:
    """Draw a prompt that asks for `scene` in `style`."""
    chinese, kind = rng.random() < 0.5, rng.random()
    if kind < WORDLESS:
        return ""
    if kind < WORDLESS + STYLE_ALONE and style != "flat":
        return vary_text(rng, WORDS[style] if chinese else style)
    text = caption(replace(scene, style=style), styled=True, language="zh" if chinese else "en")
    if kind > 1 - PART:
        text = text.split(" on ")[0].split("，背景")[0]
    return vary_text(rng, text)


def _shorten(net: HunyuanDiT2DModel) -> None:
    """Prepare the transformer for less padding: one vector for all padding tokens, and no pooled text."""
    net.text_embedding_padding = nn.Parameter(net.text_embedding_padding[:1].detach().clone())
    net.time_extra_emb.pooler = NoPool(net.config.pooled_projection_dim)


def _rotary(latents: Tensor) -> Any:
    """Return the rotary embedding as the pipeline computes it."""
    height, width = (side // PATCH for side in latents.shape[-2:])
    region = get_resize_crop_region_for_grid((height, width), 512 // 8 // PATCH)
    return get_2d_rotary_pos_embed(HIDDEN // HEADS, region, (height, width), device=latents.device)
