"""What the measurements of guidance share: frames of the shipped clip, the service, VAEs, and sampling from outside."""

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
"""Channels of the latents."""
MINIATURE: Mapping[str, Any] = {"base_dim": 12, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
"""The VAE of the miniature; the real one has base_dim 96, dim_mult [1, 2, 4, 4] and num_res_blocks 2."""
REAL_DEPTH: Mapping[str, Any] = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}

Guide = Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]]
"""A `callback_on_step_end`."""


def pictures(width: int, height: int, every: int) -> list[Frames]:
    """Return every so many frames of the clip, scaled. It has 132."""
    with av.open(str(CLIP)) as file:
        chosen = [frame for number, frame in enumerate(file.decode(video=0)) if number % every == 0]
    arrays = [frame.reformat(width, height, "rgb24").to_ndarray().astype(np.uint8) for frame in chosen]
    return [Frames(np.ascontiguousarray(array)[None]) for array in arrays]


def tensors(frames: list[Frames]) -> Tensor:
    """(n, 3, h, w) float32 in [0, 1]."""
    return torch.tensor(np.concatenate([one.pixels for one in frames])).permute(0, 3, 1, 2).float() / 255


def loaded(home: Path, **settings: Any) -> QwenEdit:
    """The service with random weights, on little memory, unless `settings` say otherwise."""
    fields: dict[str, Any] = {
        "weights": written("qwen_edit", "tiny", home),
        "device": "cpu",
        "dtype": "float32",
        "reference_area": 36864,
        "condition_area": 12544,
        "vgg16": "random",
        "lpips": "random",
    }
    return QwenEdit(QwenEditSettings(**(fields | settings)), home, lambda: "qwen-edit#benchmark")


def random_vae(seed: int, **config: Any) -> AutoencoderKLQwenImage:
    """A VAE of the real architecture with random weights, whose latents are not scaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLQwenImage(**config, z_dim=Z, latents_mean=[0.0] * Z, latents_std=[1.0] * Z)
    return vae.requires_grad_(False).eval()


@torch.no_grad()
def encoded(vae: AutoencoderKLQwenImage, frames: Tensor) -> Tensor:
    """Encode (n, 3, h, w) in [0, 1], note the statistics in the VAE, and return normalised latents (n, z, h/8, w/8)."""
    latents = cast("Any", vae.encode(frames[:, :, None] * 2 - 1)).latent_dist.mode()[:, :, 0]
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return (latents - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def decoded_plainly(vae: AutoencoderKLQwenImage, latents: Tensor) -> Tensor:
    """Normalised latents (n, z, h, w) → what `vae.decode` makes of them, with its clamp, (n, 3, 8h, 8w) in [0, 1]."""
    config = cast("Any", vae.config)
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (config.latents_mean, config.latents_std))
    return cast("Any", vae.decode((latents * std + mean)[:, :, None])).sample[:, :, 0] * 0.5 + 0.5


class Nowhere(Outlet[Item]):
    """For work whose stream nobody reads."""

    def __init__(self) -> None:
        super().__init__(cast("Any", None))

    def _send(self, item: Item | None) -> None:
        pass


class Sampling:
    """One picture's sampling on the product's own path, with whatever guides it in the place of the guidance."""

    def __init__(self, edit: QwenEdit, request: EditRequest, image: Frames, edges: Frames) -> None:
        self.model: QwenEditModel = edit._model
        self.plan: QwenEditPlan = edit._plan(request, image, edges, image)
        self._edges = self.model._edges(self.plan)
        self.losses: Losses = self.model._losses(self.plan, self._edges)
        self.decode: Callable[[Tensor], Tensor] = self.model._decode_for(self.plan)

    def run(self, guide: Guide) -> Tensor:
        """Return the latents, (1, z, h, w)."""
        return self.model._denoise(self.plan, self._edges, cast("Any", guide), Nowhere())

    def latents(self, tokens: Tensor) -> Tensor:
        """Tokens as the sampler has them → (1, z, h, w)."""
        return unpacked(tokens, self.plan.height // 8, self.plan.width // 8)


def heading_for(pipe: Any, tensors: dict[str, Tensor]) -> Tensor:
    """The tokens of the picture that a sampler is heading for behind a step: x0 = x − σ·v."""
    scheduler = pipe.scheduler
    return tensors["latents"] - scheduler.sigmas[scheduler.step_index] * scheduler.velocity
