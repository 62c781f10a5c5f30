"""Training of Wan image-to-video: the shapes of the first frame move as the prompt says."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.models.transformers import transformer_wan
from diffusers.pipelines.wan.pipeline_wan_i2v import prompt_clean
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from miniatures import world
from miniatures.attention import use_plain_attention
from miniatures.grammar import WORDS, caption, vary_text
from miniatures.pictures import to_tensor
from miniatures.text import share_meanings, t5_tokenizer
from miniatures.wan_vae import Z

TEXT_DIM = 64
FRAMES = {17: 1000, 25: 300}
"""Frames per clip → number of first frames, each with several motions."""
MOTIONS = 3
BATCH = 32
LENGTHS = {24: 0.4, 32: 0.2, 64: 0.3, 128: 0.1}
"""Padded prompt length in tokens → share of the batches. Padding is not masked, as in the pipeline."""
NO_PROMPT = 0.1
SHIFT = 5.0
"""Shift of the noise levels towards more noise: the levels of the pipeline's steps, equally often."""


@dataclass(frozen=True)
class Clip:
    """One training example."""

    scene: world.Scene
    latents: Tensor
    """(z, t, h, w), normalised, in float16."""
    condition: Tensor
    """Latents of the first frame followed by empty frames, as Wan receives them; same shape as `latents`."""


class WanRecipe:
    """Trains flow matching on the VAE's latents from a first frame and a prompt, together with the text encoder."""

    lr, adam_lr, steps = 0.02, 1.5e-3, 6000

    def __init__(self, folder: Path, frames: Mapping[int, int] = FRAMES) -> None:
        self._vae = AutoencoderKLWan.from_pretrained(folder / "wan" / "vae").eval().requires_grad_(requires_grad=False)
        self._tokenizer = t5_tokenizer()
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=len(self._tokenizer),
                d_model=TEXT_DIM,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                relative_attention_num_buckets=16,
                relative_attention_max_distance=32,
                decoder_start_token_id=0,
            )
        )
        share_meanings(self._tokenizer, text_encoder.shared)
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=4,
            attention_head_dim=32,
            in_channels=4 + 2 * Z,  # noisy latents, mask, condition
            out_channels=Z,
            text_dim=TEXT_DIM,
            freq_dim=128,
            ffn_dim=512,
            num_layers=4,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=1024,
        )
        self.module = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
        self._clips = [clip for length, count in frames.items() for clip in self._encode(length, count)]

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        length = int(rng.choice([3, 3, 4, 5, 5, 7]))  # latent frames: 9, 13, 17 and 25
        known = [clip for clip in self._clips if clip.latents.shape[1] >= length]
        chosen = [known[index] for index in rng.integers(len(known), size=BATCH)]
        device = next(self.module.parameters()).device
        latents = torch.stack([clip.latents[:, :length] for clip in chosen]).to(device).float()
        condition = torch.stack([clip.condition[:, :length] for clip in chosen]).to(device).float()
        mask = torch.zeros(len(chosen), 4, length, *latents.shape[-2:], device=device)
        mask[:, :, 0] = 1
        sigma = shift_noise(torch.rand(len(chosen), 1, 1, 1, 1)).to(device)
        noise = torch.randn_like(latents)
        prompts = [self._prompt(rng, clip.scene) for clip in chosen]
        padded = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        with torch.autocast(device.type, torch.bfloat16), use_plain_attention(transformer_wan):
            velocity = self.module["transformer"](
                hidden_states=torch.cat([(1 - sigma) * latents + sigma * noise, mask, condition], 1),
                timestep=sigma.flatten() * 1000,
                encoder_hidden_states=self._text(prompts, padded),
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - latents)).square().mean()

    def save(self, folder: Path) -> None:
        self.module.cpu()
        pipeline = WanImageToVideoPipeline(
            tokenizer=self._tokenizer,
            text_encoder=self.module["text_encoder"].to(torch.bfloat16),
            vae=AutoencoderKLWan.from_pretrained(folder / "vae", dtype=torch.bfloat16),
            scheduler=UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT, num_train_timesteps=1000
            ),
            transformer=self.module["transformer"].to(torch.bfloat16),
        )
        pipeline.save_pretrained(folder)

    @torch.no_grad()
    def _encode(self, frames: int, count: int) -> list["Clip"]:
        """Draw `count` first frames, with several clips of each.

        The VAE is causal, so the first latent frames of a clip are also those of its shorter versions.
        """
        rng = np.random.default_rng((world.TRAINING_SEEDS, frames))
        found: list[Clip] = []
        for _ in range(count):
            style = rng.choice(world.STYLES, p=[0.8, 0.1, 0.1])
            seed = int(rng.integers(world.TRAINING_SEEDS, 2**40))
            scene = world.draw(seed, style=style, frames=int(rng.choice([9, 17])))
            scenes = [scene, *(draw_other_motion(rng, scene) for _ in range(MOTIONS - 1))]
            given = to_tensor(scene.clip(frames))
            given[:, 1:] = 0
            batch = torch.stack([*(to_tensor(one.clip(frames)) for one in scenes), given])
            with torch.autocast("cpu", torch.bfloat16):
                codes = encode_normalised(self._vae, batch.contiguous(memory_format=torch.channels_last_3d)).half()
            found += [Clip(one, code, codes[-1]) for one, code in zip(scenes, codes, strict=False)]
        return found

    @staticmethod
    def _prompt(rng: np.random.Generator, scene: world.Scene) -> str:
        if rng.random() < NO_PROMPT:
            return ""
        language = "zh" if rng.random() < 0.25 else "en"
        if len(scene.figures) == 1 and rng.random() < 0.1:
            figure = scene.figures[0]
            motion = ["turns", figure.turn] if figure.turn else ["moves", str(figure.heading)]
            return " ".join(motion) if language == "en" else "".join(WORDS[word] for word in reversed(motion))
        text = caption(scene, frames=1, language=language)
        if rng.random() < 0.25:  # after a bounce the motion continues in the same way
            text = text.replace("moves", "bounces and moves") if language == "en" else text.replace("向", "弹回后向")
        return vary_text(rng, text)

    def _text(self, prompts: list[str], length: int) -> Tensor:
        """Encode prompts as the pipeline does: (batch, length, TEXT_DIM), zero after the prompt."""
        cleaned = [prompt_clean(prompt) for prompt in prompts]  # Chinese commas become English ones
        tokens = self._tokenizer(cleaned, padding="longest", truncation=True, max_length=length, return_tensors="pt")
        tokens = tokens.to(self.module["text_encoder"].device)
        hidden = self.module["text_encoder"](tokens.input_ids, tokens.attention_mask).last_hidden_state
        hidden = hidden * tokens.attention_mask[..., None]
        return nn.functional.pad(hidden, (0, 0, 0, length - hidden.shape[1]))


def shift_noise(uniform: Tensor, shift: float = SHIFT) -> Tensor:
    """Map uniform values to noise levels in (0, 1), shifted towards 1 where `shift` is above 1."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def encode_normalised(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Return the transformer's latents: (batch, 3, frames, h, w) → (batch, z, (frames + 3) / 4, h / 8, w / 8)."""
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (vae.encode(clips).latent_dist.mode().float() - mean) / std


def draw_other_motion(rng: np.random.Generator, scene: world.Scene) -> world.Scene:
    """Draw other motions for the same first frame; two figures stay in their halves."""
    figures = []
    for figure in scene.figures:
        names: list[str] = list(world.HEADINGS)
        if len(scene.figures) == 2:
            names = ["right", "left"] if figure.heading in ("right", "left") else ["down", "up"]
        elif figure.shape != "circle":
            names += world.TURNS
        name = str(rng.choice([name for name in names if name not in (figure.heading, figure.turn)]))
        turns = name in world.TURNS
        figures.append(replace(figure, heading=None if turns else name, turn=name if turns else None))
    return replace(scene, figures=tuple(figures))
