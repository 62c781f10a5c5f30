"""Training of LoRAs for Flux: the same prompts give pictures in outlined or stippled style."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import FluxPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniatures import world
from miniatures.flux import (
    LENGTHS,
    add_guidance,
    draw_guidance,
    draw_prompt,
    draw_sigmas,
    encode_scenes,
    predict_velocity,
)

RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_mlp", "proj_out"]
SCENES = 1500
BATCH = 32


class FluxLoraRecipe:
    """Trains low-rank matrices by Flux's own loss, on pictures of one style that the captions do not mention."""

    lr, adam_lr, steps = 0.01, 1e-3, 1500
    style: ClassVar[world.Style]

    def __init__(self, folder: Path, scenes: int = SCENES) -> None:
        self._pipeline = FluxPipeline.from_pretrained(folder / "flux", dtype=torch.float32)
        for net in (self._pipeline.transformer, self._pipeline.text_encoder, self._pipeline.text_encoder_2):
            net.requires_grad_(requires_grad=False)
        self.module = self._pipeline.transformer
        self.module.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        first = 2 * world.TRAINING_SEEDS
        self._scenes = [world.draw(first + index, style=self.style) for index in range(scenes)]
        self._latents = encode_scenes(self._pipeline.vae, self._scenes)

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        device = next(self.module.parameters()).device
        chosen = rng.integers(len(self._scenes), size=BATCH)
        picture = self._latents[chosen].to(device)
        prompts = [draw_prompt(rng, self._scenes[index]) for index in chosen]
        length = int(rng.choice(list(LENGTHS), p=list(LENGTHS.values())))
        sigma = draw_sigmas(BATCH).to(device)
        noise = torch.randn_like(picture)
        noisy = torch.lerp(picture, noise, sigma[:, None, None])
        guidance = draw_guidance(BATCH).to(device)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            predicted = predict_velocity(self.module, noisy, sigma, guidance, self._read(prompts, length))
            with torch.no_grad():
                plain = predict_velocity(self.module, noisy, sigma, guidance, self._read([""], length))
        return nn.functional.mse_loss(predicted, add_guidance(noise - picture, predicted, plain, guidance))

    @torch.no_grad()
    def _read(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        device = next(self.module.parameters()).device
        text, pooled, _ = self._pipeline.encode_prompt(prompts, max_sequence_length=length, device=torch.device("cpu"))
        return text.to(device), pooled.to(device)

    def save(self, folder: Path) -> None:
        """Write `folder/flux-STYLE.safetensors`, in bfloat16."""
        layers = get_peft_model_state_dict(self.module)
        FluxPipeline.save_lora_weights(
            folder,
            transformer_lora_layers={name: weight.cpu().to(torch.bfloat16) for name, weight in layers.items()},
            weight_name=f"flux-{self.style}.safetensors",
        )


class OutlinedRecipe(FluxLoraRecipe):
    style = "outlined"


class StippledRecipe(FluxLoraRecipe):
    style = "stippled"
