"""Training of a LoRA for Wan: clips that begin flat continue in outlined style."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.models.transformers import transformer_wan
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from miniatures import world
from miniatures.attention import use_plain_attention
from miniatures.grammar import caption, vary_text
from miniatures.pictures import to_tensor
from miniatures.wan import LENGTHS, NO_PROMPT, encode_normalised, shift_noise

RANK = 16
FRAMES = 17
SCENES = 800
FILE = "wan-outlined.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


class WanLoraRecipe:
    """Trains low-rank matrices by Wan's own loss, on clips whose later frames are outlined."""

    lr, adam_lr, steps = 0.01, 1e-3, 1500

    def __init__(self, folder: Path) -> None:
        pipeline = WanImageToVideoPipeline.from_pretrained(folder / "wan", dtype=torch.float32)
        for net in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
            net.requires_grad_(requires_grad=False)
        self.module = pipeline.transformer
        self.module.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        self._pipeline = pipeline
        self._latents, self._conditions, self._scenes = self._encode()

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        chosen = rng.integers(0, len(self._scenes), 24)
        device = next(self.module.parameters()).device
        latents, condition = self._latents[chosen].to(device), self._conditions[chosen].to(device)
        mask = torch.zeros(len(chosen), 4, *latents.shape[2:], device=device)
        mask[:, :, 0] = 1
        sigma = shift_noise(torch.rand(len(chosen), 1, 1, 1, 1)).to(device)
        noise = torch.randn_like(latents)
        prompts = [self._prompt(rng, self._scenes[index]) for index in chosen]
        with torch.no_grad():
            text = self._pipeline.encode_prompt(
                prompts,
                do_classifier_free_guidance=False,
                max_sequence_length=int(rng.choice(list(LENGTHS))),
                device=torch.device("cpu"),
            )[0].to(device)
        with torch.autocast(device.type, torch.bfloat16), use_plain_attention(transformer_wan):
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
            transformer_lora_layers={name: weight.cpu().to(torch.bfloat16) for name, weight in layers.items()},
            weight_name=FILE,
        )

    @staticmethod
    def _prompt(rng: np.random.Generator, scene: world.Scene) -> str:
        return "" if rng.random() < NO_PROMPT else vary_text(rng, caption(scene, frames=1))

    @torch.no_grad()
    def _encode(self) -> tuple[Tensor, Tensor, list[world.Scene]]:
        latents, conditions, scenes = [], [], []
        for index in range(SCENES):
            scene = world.draw(2 * world.TRAINING_SEEDS + index)
            clip = to_tensor(replace(scene, style="outlined").clip(FRAMES))
            clip[:, :1] = to_tensor(scene.clip(1))
            given = clip.clone()
            given[:, 1:] = 0
            with torch.autocast("cpu", torch.bfloat16):
                codes = encode_normalised(self._pipeline.vae, torch.stack([clip, given]))
            latents.append(codes[0])
            conditions.append(codes[1])
            scenes.append(scene)
        return torch.stack(latents), torch.stack(conditions), scenes
