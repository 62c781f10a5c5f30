"""Shared parts of the guidance benchmarks: frames of the shipped clip, the service, VAEs, and the sampling loop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from miniatures.random import written
from services.frames import Frames, Item
from services.qwen_edit.decoders import unpacked
from services.qwen_edit.guidance import Losses
from services.qwen_edit.model import QwenEditModel
from services.qwen_edit.plan import QwenEditPlan
from services.qwen_edit.request import EditRequest
from services.qwen_edit.service import QwenEdit
from services.qwen_edit.settings import QwenEditSettings
from services.worker import Outlet

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
Z = 16
"""Number of latent channels."""
MINIATURE: Mapping[str, Any] = {"base_dim": 12, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
"""Configuration of the miniature's VAE; the real one has base_dim 96, dim_mult [1, 2, 4, 4] and num_res_blocks 2."""
REAL_DEPTH: Mapping[str, Any] = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}

Guide = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]
"""A `callback_on_step_end` of a pipeline."""


def read_frames(width: int, height: int, every: int) -> list[Frames]:
    """Return every nth frame of the clip, which has 132, scaled."""
    with av.open(str(CLIP)) as file:
        chosen = [frame for number, frame in enumerate(file.decode(video=0)) if number % every == 0]
    arrays = [frame.reformat(width, height, "rgb24").to_ndarray().astype(np.uint8) for frame in chosen]
    return [Frames(np.ascontiguousarray(array)[None]) for array in arrays]


def to_tensors(frames: list[Frames]) -> Tensor:
    """Convert frames to (n, 3, h, w) float32 in [0, 1]."""
    return torch.tensor(np.concatenate([one.pixels for one in frames])).permute(0, 3, 1, 2).float() / 255


def load_service(home: Path, **settings: Any) -> QwenEdit:
    """Return the service with random weights, in low-memory mode unless `settings` say otherwise."""
    fields: dict[str, Any] = {
        "weights": written("qwen-edit", "tiny", home),
        "device": "cpu",
        "dtype": "float32",
        "reference_area": 36864,
        "condition_area": 12544,
        "vgg16": "random",
        "lpips": "random",
    }
    return QwenEdit(QwenEditSettings(**(fields | settings)), home, lambda: "qwen-edit#benchmark")


def random_vae(seed: int, **config: Any) -> AutoencoderKLQwenImage:
    """Return a VAE of the real architecture with random weights and unscaled latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLQwenImage(**config, z_dim=Z, latents_mean=[0.0] * Z, latents_std=[1.0] * Z)
    return vae.requires_grad_(False).eval()


@torch.no_grad()
def encode_frames(vae: AutoencoderKLQwenImage, frames: Tensor) -> Tensor:
    """Encode (n, 3, h, w) in [0, 1] to normalised latents (n, z, h/8, w/8); sets the VAE's latent statistics."""
    latents = cast("Any", vae.encode(frames[:, :, None] * 2 - 1)).latent_dist.mode()[:, :, 0]
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return (latents - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def decode_plainly(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    """Decode normalised latents (n, z, h, w) by `vae.decode`, including its clamp: (n, 3, 8h, 8w) in [0, 1]."""
    config = cast("Any", vae.config)
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (config.latents_mean, config.latents_std))
    return cast("Any", vae.decode((latents * std + mean)[:, :, None])).sample[:, :, 0] * 0.5 + 0.5


class Nowhere(Outlet[Item]):
    """An outlet that discards its items."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None))

    def _send(self, item: Item | None) -> None:
        pass


class Sampling:
    """The sampling of one picture by the product's own code, with a replaceable guidance callback."""

    def __init__(self, edit: QwenEdit, request: EditRequest, image: Frames, edges: Frames) -> None:
        self.model: QwenEditModel = edit._model
        self.plan: QwenEditPlan = edit._plan(request, image, edges, image)
        self._edges = self.model._edges(self.plan)
        self.losses: Losses = self.model._losses(self.plan, self._edges)
        self.decode: Callable[[Tensor], Tensor] = self.model._decode_for(self.plan)

    def run(self, guide: Guide) -> Tensor:
        """Sample with a callback and return the latents, (1, z, h, w)."""
        return self.model._denoise(self.plan, self._edges, cast("Any", guide), Nowhere())

    def latents(self, tokens: Tensor) -> Tensor:
        """Convert the sampler's tokens to latents, (1, z, h, w)."""
        return unpacked(tokens, self.plan.height // 8, self.plan.width // 8)


def predict_clean(pipe: Any, tensors: dict[str, Tensor]) -> Tensor:
    """Return the predicted clean picture's tokens after a step: x0 = x − σ·v."""
    scheduler = pipe.scheduler
    return tensors["latents"] - scheduler.sigmas[scheduler.step_index] * scheduler.velocity
