"""A LoRA for Wan: what begins flat goes on with outlines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from diffusers.models.transformers import transformer_wan
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from miniatures import world
from miniatures.attention import plainly
from miniatures.grammar import caption, spoken
from miniatures.pictures import to_tensor
from miniatures.wan import LENGTHS, normalised, shifted

RANK = 8
FRAMES = 17
SCENES = 400
FILE = "wan-outlined.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


class WanLoraRecipe:
    """Flow matching as for Wan itself, of low-rank matrices alone, on clips whose later frames are outlined."""

    lr, adam_lr, steps = 0.01, 1e-3, 500

    def __init__(self, folder: Path) -> None:
        pipeline = WanImageToVideoPipeline.from_pretrained(folder / "wan", dtype=torch.float32)
        self._vae: AutoencoderKLWan = pipeline.vae.requires_grad_(requires_grad=False)
        self._tokenizer = pipeline.tokenizer
        self._text_encoder = pipeline.text_encoder.requires_grad_(requires_grad=False)
        self.module = pipeline.transformer.requires_grad_(requires_grad=False)
        self.module.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        self._pipeline = pipeline
        self._latents, self._conditions, self._scenes = self._encoded()

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        chosen = rng.integers(0, len(self._scenes), 24)
        latents, condition = self._latents[chosen], self._conditions[chosen]
        mask = torch.zeros(len(chosen), 4, *latents.shape[2:])
        mask[:, :, 0] = 1
        sigma = shifted(torch.rand(len(chosen), 1, 1, 1, 1))
        noise = torch.randn_like(latents)
        prompts = [spoken(rng, caption(self._scenes[index], frames=1)) for index in chosen]
        with torch.no_grad():
            text = self._pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False, max_sequence_length=int(rng.choice(list(LENGTHS)))
            )[0]
        with torch.autocast("cpu", torch.bfloat16), plainly(transformer_wan):
            velocity = self.module(
                hidden_states=torch.cat([(1 - sigma) * latents + sigma * noise, mask, condition], 1),
                timestep=sigma.flatten() * 1000,
                encoder_hidden_states=text,
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - latents)).square().mean()

    def save(self, folder: Path) -> None:
        layers = get_peft_model_state_dict(self.module)
        WanImageToVideoPipeline.save_lora_weights(
            folder,
            transformer_lora_layers={name: weight.to(torch.bfloat16) for name, weight in layers.items()},
            weight_name=FILE,
        )

    @torch.no_grad()
    def _encoded(self) -> tuple[Tensor, Tensor, list[world.Scene]]:
        latents, conditions, scenes = [], [], []
        for index in range(SCENES):
            scene = world.draw(2 * world.TRAINING_SEEDS + index)
            clip = to_tensor(replace(scene, style="outlined").clip(FRAMES))
            clip[:, :1] = to_tensor(scene.clip(1))
            given = clip.clone()
            given[:, 1:] = 0
            with torch.autocast("cpu", torch.bfloat16):
                codes = normalised(self._vae, torch.stack([clip, given]))
            latents.append(codes[0])
            conditions.append(codes[1])
            scenes.append(scene)
        return torch.stack(latents), torch.stack(conditions), scenes
