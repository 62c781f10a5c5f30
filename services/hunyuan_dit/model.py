"""Inference with HunyuanDiT: add noise to the picture's latents, then run diffusers' pipeline for the last steps."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.pipelines.hunyuandit import pipeline_hunyuandit
from PIL import Image
from torch import Tensor
from transformers import T5Tokenizer

from services.device import find_device, finite, place, quiet, report_device_errors
from services.errors import ConfigError, InvalidParameter
from services.frames import Frames, Item, Pixels, Progress
from services.hunyuan_dit.plan import HunyuanDitPlan
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.weights.completeness import check_pipeline
from services.weights.local import resolve
from services.worker import Outlet


class TailDPMSolver(DPMSolverMultistepScheduler):
    """DPM-Solver++ that runs only the last steps of its schedule.

    The noise levels are truncated together with the time steps: `step` uses a lower order for the last steps, which it
    recognises by their index in the time steps.

    Source: DPM-Solver++, arXiv 2211.01095.
    """

    kept: int | None = None
    """Number of last steps to run; None means all."""

    def set_timesteps(self, num_inference_steps: int | None = None, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, *args, **kwargs)
        if self.kept is not None:
            self.timesteps = self.timesteps[-self.kept :]
            self.sigmas = self.sigmas[-self.kept - 1 :]  # one more: the final level


class ChunkedFeedForward(torch.nn.Module):
    """A feed-forward layer that processes `tokens` tokens at a time to save memory.

    The model has `enable_forward_chunking`, but its blocks ignore that setting.
    """

    def __init__(self, whole: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.whole = whole
        self.tokens = tokens

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the layer in chunks: (n, tokens, channels) → (n, tokens, channels)."""
        return torch.cat([self.whole(part) for part in hidden_states.split(self.tokens, dim=1)], dim=1)


class HunyuanDitModel:
    """A loaded checkpoint. It handles one request at a time: the pipeline and its scheduler hold a request's state."""

    def __init__(self, settings: HunyuanDitSettings, home: Path) -> None:
        device = find_device(settings.device)
        if settings.offload == "group":
            raise ConfigError(
                "offload: group is not supported by HunyuanDiT; use none, model or sequential", param="offload"
            )
        self._pipe = _load(settings, home)
        self._schedule = dict(self._pipe.scheduler.config)
        transformer = self._pipe.transformer
        if settings.forward_chunking is not None:
            for block in transformer.blocks:
                block.ff = ChunkedFeedForward(block.ff, settings.forward_chunking)
        place(self._pipe, device, settings.offload, in_order=True)
        if settings.compile:  # as a whole: the model does not declare its repeated blocks
            transformer.compile()

    def restyle(self, plan: HunyuanDitPlan, outlet: Outlet[Item]) -> None:
        """Repaint `plan`'s picture, putting Progress and one Frames into `outlet`; `strength` 0 returns it unchanged.

        Raises:
            InvalidParameter: the noise schedule has fewer levels than `steps`.
            ModelFailed: out of memory, or the model computed non-finite values.
            DeviceFailed: this process can no longer use the GPU.
            Cancelled: the job was cancelled; checked after each denoising step.
        """
        image = plan.image
        if plan.request.strength == 0:
            outlet.put(Frames(image.pixels[:1], rate=image.rate))
            return
        # After an exception the pipeline's models are still on the device.
        release = self._pipe.maybe_free_model_hooks
        task = f"{plan.width}x{plan.height} pixels"
        with report_device_errors(task, "ask for a smaller max_area", release):
            pixels = self._decode(self._denoise(plan, outlet), image)
        outlet.put(Frames(pixels, rate=image.rate))

    def _denoise(self, plan: HunyuanDitPlan, outlet: Outlet[Item]) -> Tensor:
        """Return the denoised latents, (1, 4, h, w)."""
        request, total = plan.request, plan.request.steps_done
        scheduler = _scheduler(request, self._schedule)
        outlet.put(Progress("denoise", 0, total))
        # Generated on the CPU, so that the noise is the same on every device.
        generator = torch.Generator().manual_seed(plan.seed)
        noisy = self._noisy(plan, scheduler, generator)
        outlet.check()

        def on_step_end(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            outlet.put(Progress("denoise", step + 1, total))
            return {}

        self._pipe.scheduler = scheduler
        latents = self._pipe(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            latents=noisy,
            height=plan.height,
            width=plan.width,
            use_resolution_binning=False,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            guidance_rescale=request.guidance_rescale,
            output_type="latent",
            callback_on_step_end=on_step_end,
        ).images
        return finite(latents)

    @torch.no_grad()
    def _noisy(self, plan: HunyuanDitPlan, scheduler: TailDPMSolver, generator: torch.Generator) -> Tensor:
        """Return the picture's latents with the noise of the first step that is run, (1, 4, h, w)."""
        vae = self._pipe.vae
        picture = _resized(Image.fromarray(plan.image.pixels[0]), (plan.width, plan.height))
        pixels = self._pipe.image_processor.preprocess(picture)  # (1, 3, height, width) float32 in [-1, 1]
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample(generator)
        # In float32: half precision is too coarse for the high noise levels.
        latents = finite(latents).float() * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        return scheduler.add_noise(latents, noise, scheduler.timesteps[:1]).to(self._pipe.transformer.dtype)

    @torch.no_grad()
    def _decode(self, latents: Tensor, image: Frames) -> Pixels:
        """Decode latents as the pipeline does, resized to the size of `image`: (1, height, width, 3) uint8."""
        vae = self._pipe.vae
        decoded = finite(vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0])
        made = self._pipe.image_processor.postprocess(decoded, output_type="pil")[0]
        return np.array(_resized(made, (image.width, image.height)))[None]


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _scheduler(request: RestyleRequest, config: dict[str, Any]) -> TailDPMSolver:
    scheduler = TailDPMSolver.from_config(config, algorithm_type="dpmsolver++")
    scheduler.kept = request.steps_done
    scheduler.set_timesteps(request.steps)
    if not (scheduler.timesteps.diff() < 0).all():  # integers; the solver cannot step between equal levels
        raise InvalidParameter(f"steps: {request.steps} are too many: some fall together", param="steps")
    return scheduler


def _load(settings: HunyuanDitSettings, home: Path) -> HunyuanDiTPipeline:
    quiet()
    # It would log the truncated part of a long prompt.
    logging.getLogger(pipeline_hunyuandit.__name__).setLevel(logging.ERROR)
    folder = resolve(settings.weights, home)
    try:
        index = HunyuanDiTPipeline.load_config(folder, local_files_only=True)
        _, transformer = index.get("transformer", ("", "none"))
        if transformer != HunyuanDiT2DModel.__name__:  # diffusers would load everything and only warn
            raise ValueError(f"its transformer is {transformer}")
        check_pipeline(folder)
        renamed = _load_renamed(folder, index)
        pipe = HunyuanDiTPipeline.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            # No checkpoint contains a safety checker, but all declare that they require one.
            safety_checker=None,
            requires_safety_checker=False,
            **dict.fromkeys(renamed),  # diffusers looks up the class even of a part that is given to it
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights: {settings.weights.source} is not a HunyuanDiT checkpoint ({error})") from error
    pipe.register_modules(**renamed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_renamed(folder: Path, index: Mapping[str, Any]) -> dict[str, T5Tokenizer]:
    """Load the tokenizer whose class some copies of the checkpoint call `MT5Tokenizer`, which transformers removed."""
    if tuple(index.get("tokenizer_2", ())) != ("transformers", "MT5Tokenizer"):
        return {}
    return {"tokenizer_2": T5Tokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True)}
