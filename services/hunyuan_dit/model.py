"""How HunyuanDiT runs: the picture's latents with noise on them, then diffusers' pipeline for the rest of the way."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.pipelines.hunyuandit import pipeline_hunyuandit
from PIL import Image
from torch import Tensor

from services.device import find_device, finite, place, quiet, report_device_errors
from services.errors import ConfigError, InvalidParameter
from services.frames import Frames, Item, Pixels, Progress
from services.hunyuan_dit.plan import HunyuanDitPlan
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.weights.local import resolve
from services.worker import Outlet


class TailDPMSolver(DPMSolverMultistepScheduler):
    """DPM-Solver++ that does only the last steps of its schedule.

    The noise levels are cut together with the time steps: `step` knows the last steps, which it does in a lower order,
    by their place among the time steps.

    Source: DPM-Solver++, arXiv 2211.01095.
    """

    kept: int | None = None
    """How many of the steps; None is all."""

    def set_timesteps(self, num_inference_steps: int | None = None, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, *args, **kwargs)
        if self.kept is not None:
            self.timesteps = self.timesteps[-self.kept :]
            self.sigmas = self.sigmas[-self.kept - 1 :]  # one more: the level at the end


class ChunkedFeedForward(torch.nn.Module):
    """A feed-forward layer that takes so many tokens at a time.

    The model has `enable_forward_chunking`, but its blocks never look at what that sets.
    """

    def __init__(self, whole: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.whole = whole
        self.tokens = tokens

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(n, tokens, channels) in and out."""
        return torch.cat([self.whole(part) for part in hidden_states.split(self.tokens, dim=1)], dim=1)


class HunyuanDitModel:
    """A loaded checkpoint. One request at a time: the pipeline and its scheduler hold a request's state."""

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
        if settings.compile:  # as a whole: the model does not say which of its blocks repeat
            transformer.compile()

    def restyle(self, plan: HunyuanDitPlan, outlet: Outlet[Item]) -> None:
        """Paint `plan`'s picture again, putting Progress and one Frames into `outlet`; `strength` 0 keeps it.

        Raises:
            InvalidParameter: there are fewer noise levels than `steps`.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: nobody wants it any more; seen after each denoising step.
        """
        image = plan.image
        if plan.request.strength == 0:
            outlet.put(Frames(image.pixels[:1], rate=image.rate))
            return
        # A pipeline that an exception has left keeps its models on the device.
        release = self._pipe.maybe_free_model_hooks
        task = f"{plan.width}x{plan.height} pixels"
        with report_device_errors(task, "ask for a smaller max_area", release):
            pixels = self._decode(self._denoise(plan, outlet), image)
        outlet.put(Frames(pixels, rate=image.rate))

    def _denoise(self, plan: HunyuanDitPlan, outlet: Outlet[Item]) -> Tensor:
        """Return the latents, (1, 4, h, w)."""
        request, total = plan.request, plan.request.steps_done
        scheduler = _scheduler(request, self._schedule)
        outlet.put(Progress("denoise", 0, total))
        # On the CPU, whose generator gives every device the same noise.
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
        """Return the picture's latents with the noise of the first step that is done, (1, 4, h, w)."""
        vae = self._pipe.vae
        picture = _resized(Image.fromarray(plan.image.pixels[0]), (plan.width, plan.height))
        pixels = self._pipe.image_processor.preprocess(picture)  # (1, 3, height, width) float32 in [-1, 1]
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample(generator)
        # In float32: half precision has too few digits for the high noise levels.
        latents = finite(latents).float() * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        return scheduler.add_noise(latents, noise, scheduler.timesteps[:1]).to(self._pipe.transformer.dtype)

    @torch.no_grad()
    def _decode(self, latents: Tensor, image: Frames) -> Pixels:
        """Decode as the pipeline does, then bring it to the size of `image`: (1, height, width, 3) uint8."""
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
    if not (scheduler.timesteps.diff() < 0).all():  # whole numbers; no solver can go from a level to the same level
        raise InvalidParameter(f"steps: {request.steps} are too many: some fall together", param="steps")
    return scheduler


def _load(settings: HunyuanDitSettings, home: Path) -> HunyuanDiTPipeline:
    quiet()
    # It would write into the log what it cuts off a prompt.
    logging.getLogger(pipeline_hunyuandit.__name__).setLevel(logging.ERROR)
    folder = resolve(settings.weights, home)
    try:
        _, transformer = HunyuanDiTPipeline.load_config(folder, local_files_only=True).get("transformer", ("", "none"))
        if transformer != HunyuanDiT2DModel.__name__:  # diffusers would load it all, and then only warn
            raise ValueError(f"its transformer is {transformer}")
        pipe = HunyuanDiTPipeline.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            # No checkpoint has one, but all say that they require it.
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights: {settings.weights.source} is not a HunyuanDiT checkpoint ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
